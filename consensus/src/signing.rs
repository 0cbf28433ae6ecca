//! The signer, and a note of what it made: a recording has the signatures and not the key, and a
//! replay takes them from there.

use std::cell::RefCell;

use wire::ids::{NodeId, Signature};
use wire::seal::{Signer, Statement};

use crate::core::Core;

/// Signatures of one input at most that are noted: own words of one view, twice.
const NOTED_MAX: usize = 64;

/// Signs, and notes what it signed while that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Noting<S> {
    pub inner: S,
    made: Option<RefCell<Vec<Signature>>>,
}

impl<S> Noting<S> {
    pub fn new(inner: S) -> Noting<S> {
        Noting { inner, made: None }
    }

    /// From now on; the memory is taken here.
    pub fn note(&mut self) {
        self.made = Some(RefCell::new(Vec::with_capacity(NOTED_MAX)));
    }

    /// Hands over, oldest first, what was made since the last call.
    pub fn noted(&mut self, mut each: impl FnMut(&Signature)) {
        if let Some(made) = &mut self.made {
            let made = made.get_mut();
            made.iter().for_each(&mut each);
            made.clear();
        }
    }
}

impl<S: Signer> Signer for Noting<S> {
    fn me(&self) -> NodeId {
        self.inner.me()
    }

    fn sign(&self, statement: &Statement) -> Signature {
        let signature = self.inner.sign(statement);
        if let Some(made) = &self.made {
            made.borrow_mut().push(signature);
        }
        signature
    }
}

impl<S: Signer> Core<S> {
    /// Notes every signature that the core makes from now on, for [`Core::signatures_made`].
    pub fn note_signatures(&mut self) {
        self.signer.note();
    }

    /// What was signed since the last call, oldest first.
    pub fn signatures_made(&mut self, each: impl FnMut(&Signature)) {
        self.signer.noted(each);
    }
}
