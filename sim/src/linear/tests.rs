//! Histories known to be good or bad, random ones, and a second checker that tries every order.

use super::*;
use crate::random::Random;

fn operation(step: Step, seen: Seen, call_ns: u64, return_ns: u64) -> Operation {
    Operation {
        steps: vec![(step, seen)],
        call_ns,
        return_ns: Some(return_ns),
        hint: 0,
    }
}

fn open(step: Step, call_ns: u64) -> Operation {
    Operation {
        steps: vec![(step, Seen::Anything)],
        call_ns,
        return_ns: None,
        hint: 0,
    }
}

fn put(value: Content, call_ns: u64, return_ns: u64) -> Operation {
    operation(Step::Put(value), Seen::Done, call_ns, return_ns)
}

fn get(value: Content, call_ns: u64, return_ns: u64) -> Operation {
    operation(Step::Get, Seen::Value(value), call_ns, return_ns)
}

fn absent(call_ns: u64, return_ns: u64) -> Operation {
    operation(Step::Get, Seen::Absent, call_ns, return_ns)
}

fn cas(expected: Option<Content>, value: Content, seen: Seen, times: (u64, u64)) -> Operation {
    operation(Step::Cas { expected, value }, seen, times.0, times.1)
}

fn holds(operations: &[Operation]) -> bool {
    let found = match check(operations, STATES_MAX) {
        Verdict::Linearizable { .. } => true,
        Verdict::Violation { .. } => false,
        Verdict::Unknown { .. } => panic!("a tiny history is decided"),
    };
    if operations.len() <= 7 {
        assert_eq!(found, brute_force(operations), "{operations:?}");
    }
    found
}

/// Tries every order of every choice of open operations.
fn brute_force(operations: &[Operation]) -> bool {
    fn extend(operations: &[Operation], done: u32, state: Option<Content>) -> bool {
        let waits = |at: usize| done >> at & 1 == 0;
        let mut left = operations.iter().enumerate().filter(|(at, _)| waits(*at));
        if left.all(|(_, operation)| operation.return_ns.is_none()) {
            return true;
        }
        (0..operations.len()).filter(|at| waits(*at)).any(|at| {
            // Nothing may come before what had ended when it was called.
            let called = operations[at].call_ns;
            let overtakes = (0..operations.len()).any(|other| {
                waits(other) && operations[other].return_ns.is_some_and(|r| r < called)
            });
            !overtakes
                && operations[at]
                    .apply(state)
                    .is_some_and(|state| extend(operations, done | 1 << at, state))
        })
    }
    extend(operations, 0, None)
}

#[test]
fn known_good_histories() {
    let good: [&[Operation]; 8] = [
        &[],
        &[absent(0, 1), put(1, 2, 3), get(1, 4, 5)],
        // Overlapping writes and a read may take effect in any order.
        &[put(1, 0, 10), put(2, 0, 10), get(1, 11, 12)],
        &[put(1, 0, 10), get(1, 1, 2), absent(0, 3)],
        // Two reads that overlap a write see it in turn.
        &[put(1, 0, 1), put(2, 2, 20), get(1, 3, 4), get(2, 5, 6)],
        // Touching times overlap.
        &[put(1, 0, 5), absent(5, 6)],
        &[
            cas(None, 1, Seen::Done, (0, 1)),
            cas(Some(1), 2, Seen::Done, (2, 5)),
            cas(Some(1), 3, Seen::Mismatch(Some(2)), (2, 5)),
            get(2, 6, 7),
        ],
        &[
            put(1, 0, 1),
            operation(Step::Delete, Seen::Done, 2, 3),
            operation(Step::Delete, Seen::Absent, 4, 5),
            absent(6, 7),
        ],
    ];
    for history in good {
        assert!(holds(history), "{history:?}");
    }
}

#[test]
fn known_bad_histories() {
    let bad: [(&str, &[Operation]); 9] = [
        ("value out of nowhere", &[get(7, 0, 1)]),
        (
            "stale read after an overlapping write was seen",
            &[put(1, 0, 1), put(2, 2, 20), get(2, 3, 4), get(1, 5, 6)],
        ),
        (
            "stale read after a write that ended",
            &[put(1, 0, 1), put(2, 2, 3), get(1, 4, 5)],
        ),
        (
            "lost update",
            &[
                put(1, 0, 1),
                put(2, 0, 1),
                get(1, 2, 3),
                get(2, 4, 5),
                get(1, 6, 7),
            ],
        ),
        ("read of the future", &[get(1, 0, 1), put(1, 2, 3)]),
        (
            "two winners of one exchange",
            &[
                cas(None, 1, Seen::Done, (0, 5)),
                cas(None, 2, Seen::Done, (0, 5)),
            ],
        ),
        (
            "an exchange that had to succeed",
            &[
                put(1, 0, 1),
                cas(Some(1), 2, Seen::Mismatch(Some(1)), (2, 3)),
            ],
        ),
        (
            "a mismatch that names what was never there",
            &[put(1, 0, 1), cas(Some(9), 2, Seen::Mismatch(None), (2, 3))],
        ),
        (
            "deleted twice",
            &[
                put(1, 0, 1),
                operation(Step::Delete, Seen::Done, 2, 9),
                operation(Step::Delete, Seen::Done, 2, 9),
            ],
        ),
    ];
    for (what, history) in bad {
        assert!(!holds(history), "{what}");
    }
}

#[test]
fn open_operations_take_effect_late_or_never() {
    assert!(holds(&[
        open(Step::Put(1), 0),
        absent(10, 11),
        get(1, 50, 51)
    ]));
    assert!(holds(&[open(Step::Put(1), 0), absent(10, 11)]));
    assert!(holds(&[open(Step::Put(1), 0), put(2, 1, 2), get(1, 3, 4)]));
    assert!(holds(&[open(Step::Get, 0), put(2, 1, 2), get(2, 3, 4)]));
    // Not before it was called, and not twice.
    assert!(!holds(&[get(1, 0, 1), open(Step::Put(1), 2)]));
    assert!(!holds(&[
        open(Step::Put(1), 0),
        get(1, 1, 2),
        put(2, 3, 4),
        get(1, 5, 6),
        get(2, 7, 8),
    ]));
    let exchange = Step::Cas {
        expected: Some(1),
        value: 2,
    };
    assert!(holds(&[put(1, 0, 1), open(exchange, 2), get(2, 9, 10)]));
    assert!(!holds(&[put(3, 0, 1), open(exchange, 2), get(2, 9, 10)]));
}

#[test]
fn lost_results_still_take_effect() {
    let lost = operation(Step::Put(2), Seen::Anything, 2, 3);
    assert!(holds(&[put(1, 0, 1), lost.clone(), get(2, 4, 5)]));
    assert!(!holds(&[put(1, 0, 1), lost, get(1, 4, 5)]));
}

#[test]
fn a_transaction_is_split_by_key_and_stays_whole_on_each() {
    let mut history = History::default();
    let parts = [
        (&b"a"[..], Step::Get, Seen::Absent),
        (b"a", Step::Put(1), Seen::Done),
        (b"b", Step::Put(2), Seen::Done),
    ];
    history.record(0, Some(1), 0, parts);
    history.record(2, Some(3), 0, [(&b"a"[..], Step::Get, Seen::Value(1))]);
    let scan = [
        (&b"a"[..], Step::Get, Seen::Value(1)),
        (b"b", Step::Get, Seen::Value(2)),
    ];
    history.record(4, Some(5), 0, scan);
    let checked = history.check(STATES_MAX).unwrap();
    assert_eq!((checked.keys, checked.operations), (2, 5));
    history.record(6, Some(7), 0, [(&b"b"[..], Step::Get, Seen::Absent)]);
    let error = history.check(STATES_MAX).unwrap_err();
    assert!(error.contains("\"b\""), "{error}");
    // The steps of one transaction have nothing between them.
    let mut history = History::default();
    let twice = [
        (&b"a"[..], Step::Put(1), Seen::Done),
        (b"a", Step::Put(2), Seen::Done),
    ];
    history.record(0, Some(9), 0, twice);
    history.record(1, Some(8), 0, [(&b"a"[..], Step::Get, Seen::Value(1))]);
    assert!(history.check(STATES_MAX).is_err());
}

/// What happens at random points in time, seen through random intervals around them.
fn random_history(random: &mut Random, operations: usize, spread_ns: u64) -> Vec<Operation> {
    let mut state = None;
    let mut history = Vec::new();
    let values = random.within(2, 6);
    for index in 0..operations as u64 {
        let at = 1000 + 10 * index;
        let value = 100 * index + 1;
        let guess = state.filter(|_| random.chance(600));
        let step = match random.below(values + 4) {
            0 => Step::Delete,
            1 | 2 => Step::Cas {
                expected: guess,
                value,
            },
            3 | 4 => Step::Put(value),
            _ => Step::Get,
        };
        let answers = [
            Seen::Done,
            Seen::Absent,
            state.map_or(Seen::Absent, Seen::Value),
            Seen::Mismatch(state),
        ];
        let told = answers.into_iter().find_map(|seen| {
            let after = step.apply(state, seen)?;
            Some((seen, after))
        });
        let (seen, after) = told.expect("a register answers");
        state = after;
        let ends = at + random.below(spread_ns);
        history.push(Operation {
            steps: vec![(step, seen)],
            call_ns: at - random.below(spread_ns),
            return_ns: (!random.chance(50)).then_some(ends),
            hint: index,
        });
    }
    history
}

#[test]
fn histories_of_a_register_hold() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let spread_ns = *random.pick(&[1, 20, 100, 300]);
        let mut history = random_history(&mut random, 100, spread_ns);
        if spread_ns <= 20 {
            history.iter_mut().for_each(|operation| operation.hint = 0);
        }
        let verdict = check(&history, STATES_MAX);
        assert!(
            matches!(verdict, Verdict::Linearizable { .. }),
            "seed {seed}: {verdict:?}"
        );
    }
}

/// Another answer than the true one.
fn mutate(random: &mut Random, history: &mut [Operation]) {
    loop {
        let index = random.below(history.len() as u64) as usize;
        let operation = &mut history[index];
        let (step, seen) = &mut operation.steps[0];
        if operation.return_ns.is_some() && *step == Step::Get {
            *seen = match seen {
                Seen::Absent => Seen::Value(1),
                _ => Seen::Absent,
            };
            return;
        }
    }
}

#[test]
fn wrong_answers_are_mostly_found() {
    let (mut found, mut unknown) = (0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut history = random_history(&mut random, 60, 12);
        mutate(&mut random, &mut history);
        match check(&history, STATES_MAX) {
            Verdict::Violation { .. } => found += 1,
            Verdict::Unknown { .. } => unknown += 1,
            // Another answer can be right too when operations overlap.
            Verdict::Linearizable { .. } => {}
        }
    }
    assert!(
        found > 200 && unknown == 0,
        "{found} of 300, {unknown} unknown"
    );
}

#[test]
fn tiny_histories_are_judged_as_by_brute_force() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4000 {
        let mut random = Random::new(seed);
        let operations = random.within(2, 7) as usize;
        let mut history = random_history(&mut random, operations, 40);
        let has_get = history
            .iter()
            .any(|o| o.return_ns.is_some() && o.steps[0].0 == Step::Get);
        if has_get && random.chance(600) {
            mutate(&mut random, &mut history);
        }
        // `holds` compares.
        if holds(&history) {
            good += 1;
        } else {
            bad += 1;
        }
    }
    assert!(good > 1000 && bad > 300, "{good} good, {bad} bad");
}

#[test]
fn a_search_without_end_is_given_up_and_says_so() {
    // Many writes at once and a read of something else: every subset is a state.
    let mut history = (1..30).map(|value| put(value, 0, 100)).collect::<Vec<_>>();
    history.push(get(99, 50, 60));
    assert_eq!(check(&history, 1000), Verdict::Unknown { states: 1000 });
    let mut all = History::default();
    for value in 1..30 {
        all.record(0, Some(100), 0, [(&b"k"[..], Step::Put(value), Seen::Done)]);
    }
    all.record(50, Some(60), 0, [(&b"k"[..], Step::Get, Seen::Value(99))]);
    assert_eq!(all.check(1000).unwrap().unknown, 1);
}
