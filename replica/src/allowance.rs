//! What a peer may cost this replica: an account that fills with time. What a thing costs is known
//! once it is done, so an account may be overdrawn.

use wire::ids::Instant;

/// How fast an account fills, how much it holds, and where its debts end: a peer is unheard for no
/// longer than the account takes to fill up from there. The unit is the owner's.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_s: u64,
    pub at_once: u64,
    pub debt: u64,
}

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left: i64,
    at: Instant,
}

impl Allowance {
    /// A full account.
    pub fn new(rate: Rate) -> Allowance {
        Allowance {
            left: rate.at_once as i64,
            at: Instant(0),
        }
    }

    /// What is left by now; negative for debts. Looked at before anything is charged.
    pub fn left(&mut self, now: Instant, rate: Rate) -> i64 {
        let most = i128::from(rate.at_once) - i128::from(self.left);
        let earned = i128::from(now.since_ns(self.at)) * i128::from(rate.per_s) / 1_000_000_000;
        if earned >= most {
            (self.at, self.left) = (now, rate.at_once as i64);
        } else if earned > 0 {
            // What is on its way to the next unit stays so.
            let took_ns = earned * 1_000_000_000 / i128::from(rate.per_s);
            self.at = self.at.after_ns(took_ns as u64);
            self.left += earned as i64;
        }
        self.left
    }

    /// Takes `cost` off.
    pub fn charge(&mut self, cost: u64, rate: Rate) {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        self.left = self.left.saturating_sub(cost).max(-(rate.debt as i64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_s: 1000,
        at_once: 50,
        debt: 40,
    };

    #[test]
    fn an_account_fills_with_time_and_holds_no_more_than_it_may() {
        let mut account = Allowance::new(RATE);
        assert_eq!(account.left(Instant(1), RATE), 50);
        account.charge(30, RATE);
        // Parts of a unit are not lost by looking.
        for now in (1..=10_000_000).step_by(150_000) {
            account.left(Instant(now), RATE);
        }
        assert_eq!(account.left(Instant(10_000_001), RATE), 30);
        account.charge(u64::MAX, RATE);
        assert_eq!(account.left(Instant(10_000_001), RATE), -40);
        assert_eq!(account.left(Instant(60_000_001), RATE), 10);
        assert_eq!(account.left(Instant(u64::MAX), RATE), 50);
    }
}
