//! BYZ18: speaks honestly, but comes back with an old directory: the plan puts its disk back.

use super::{Context, Liar, Spoken};

/// See the module's documentation.
pub struct Amnesiac;

impl Liar for Amnesiac {
    fn name(&self) -> &'static str {
        "amnesiac"
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        vec![spoken]
    }
}
