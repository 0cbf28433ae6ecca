//! Work for several senders, each of whom gets the same share of the worker's effort.
//!
//! The next job is of the sender who has cost the least so far, among those whose jobs wait. Who comes
//! anew begins where the others are: nobody saves up by being idle.

use std::collections::VecDeque;

/// See the module's documentation.
pub struct Fair<T> {
    queues: Vec<Queue<T>>,
    /// What the sender served last had cost by then.
    floor: u64,
    serving: usize,
}

struct Queue<T> {
    jobs: VecDeque<T>,
    cost: u64,
}

impl<T> Fair<T> {
    pub fn new(senders: usize) -> Fair<T> {
        let queue = || Queue {
            jobs: VecDeque::new(),
            cost: 0,
        };
        Fair {
            queues: (0..senders).map(|_| queue()).collect(),
            floor: 0,
            serving: 0,
        }
    }

    /// A job of this sender; the caller bounds how many wait.
    pub fn push(&mut self, sender: usize, job: T) {
        let queue = &mut self.queues[sender];
        if queue.jobs.is_empty() {
            queue.cost = queue.cost.max(self.floor);
        }
        queue.jobs.push_back(job);
    }

    /// The next job.
    pub fn pop(&mut self) -> Option<T> {
        let waiting = self.queues.iter_mut().enumerate();
        let waiting = waiting.filter(|(_, queue)| !queue.jobs.is_empty());
        let (sender, queue) = waiting.min_by_key(|(_, queue)| queue.cost)?;
        (self.floor, self.serving) = (queue.cost, sender);
        queue.jobs.pop_front()
    }

    /// The last job cost so much, and one for itself.
    pub fn settle(&mut self, cost: u64) {
        self.queues[self.serving].cost += cost + 1;
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.jobs.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.jobs.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of two senders had done when both always have jobs waiting that cost so much.
    fn shares(costs: [u64; 2]) -> [u64; 2] {
        let mut fair = Fair::new(4);
        for sender in [1, 3] {
            for _ in 0..3 {
                fair.push(sender, sender);
            }
        }
        let mut done = [0, 0];
        for _ in 0..100_000 {
            let sender = fair.pop().unwrap();
            let index = usize::from(sender == 3);
            done[index] += costs[index];
            fair.settle(costs[index]);
            fair.push(sender, sender);
        }
        done
    }

    #[test]
    fn each_sender_has_the_same_share_whatever_its_jobs_cost() {
        let [small, large] = shares([64, 2048]);
        assert!(small.abs_diff(large) * 20 < small, "{small} {large}");
    }

    #[test]
    fn nobody_saves_up() {
        let mut fair = Fair::new(2);
        for _ in 0..1_000 {
            fair.push(0, 0);
            assert_eq!(fair.pop(), Some(0));
            fair.settle(100);
        }
        for _ in 0..10 {
            fair.push(0, 0);
            fair.push(1, 1);
        }
        let mut first = Vec::new();
        for _ in 0..6 {
            first.extend(fair.pop());
            fair.settle(100);
        }
        assert_eq!(first.iter().sum::<i32>(), 3);
        assert_eq!((fair.len(), fair.is_empty()), (14, false));
    }
}
