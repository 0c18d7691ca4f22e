//! Atomics whose addresses lead to loom's. They keep the `const fn new` and the layout of the real
//! ones. See [`model`](crate::model).

#![allow(clippy::must_use_candidate, reason = "as in the real module")]

use core::ops::Deref;
use core::ptr;
use std::rc::Rc;

pub use core::sync::atomic::Ordering;

use crate::model::explorer::{self, Change, Place};
use crate::model::{WORLD, count_write, step};

/// Loom's atomic, and a second one, the turn, to which every load writes first.
///
/// Loom tries both orders of two accesses only if nothing touches the atomic between them. To loom,
/// a thread's own load before its exchange stands between the exchange and another thread's load.
/// The turns are read-modify-writes and order nothing else. They make loom try both orders of any
/// two accesses.
pub(crate) struct Watched<A> {
    turn: loom::sync::atomic::AtomicU32,
    word: A,
}

impl<A> Watched<A> {
    pub(crate) fn new(word: A) -> Self {
        Watched { turn: loom::sync::atomic::AtomicU32::new(0), word }
    }

    fn take_turn(&self) {
        self.turn.fetch_add(0, Ordering::Relaxed);
    }
}

impl<A> Deref for Watched<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.word
    }
}

/// Loom takes a SeqCst access for an AcqRel one, but knows the fence. So a fence follows each
/// SeqCst exchange and precedes each SeqCst load. It orders a thread that exchanges one word and
/// then loads another with threads that do the reverse. SeqCst accesses are used here for just
/// that.
fn fence_if_seq_cst(order: Ordering) {
    if order == Ordering::SeqCst {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// A fence, as in the standard library.
pub fn fence(order: Ordering) {
    // An exploration is sequentially consistent.
    if !explorer::is_active() && step() {
        loom::sync::atomic::fence(order);
    }
}

macro_rules! modelled {
    ($name:ident, $plain:ty, $words:ident) => {
        /// A modelled atomic.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name {
            /// The initial value of loom's atomic; never written.
            initial: core::sync::atomic::$name,
        }

        #[allow(missing_docs, reason = "the standard library's methods")]
        impl $name {
            pub const fn new(value: $plain) -> Self {
                $name { initial: core::sync::atomic::$name::new(value) }
            }

            pub(crate) fn loom(&self) -> Rc<Watched<loom::sync::atomic::$name>> {
                let address = ptr::from_ref(self).addr();
                let initial = self.initial.load(Ordering::Relaxed);
                let new = || loom::sync::atomic::$name::new(initial);
                WORLD.with_borrow_mut(|world| world.$words.get(address, initial == 0, new))
            }

            pub(crate) fn place(&self) -> Place {
                let initial = self.initial.load(Ordering::Relaxed);
                Place {
                    address: ptr::from_ref(self).addr(),
                    initial: initial.into(),
                    bits: <$plain>::MAX.into(),
                }
            }

            /// Loads without a step: for the kernel, or as part of another step.
            pub(crate) fn peek(&self, order: Ordering) -> $plain {
                let word = self.loom();
                word.take_turn();
                word.load(order)
            }

            pub fn load(&self, order: Ordering) -> $plain {
                if explorer::is_active() {
                    return explorer::load(self.place()) as $plain;
                }
                if !step() {
                    return 0;
                }
                fence_if_seq_cst(order);
                self.peek(order)
            }

            pub fn store(&self, value: $plain, order: Ordering) {
                if explorer::is_active() {
                    explorer::change(self.place(), Change::Store, value.into());
                } else if step() {
                    self.loom().store(value, order);
                    count_write();
                }
            }

            pub fn fetch_and(&self, value: $plain, order: Ordering) -> $plain {
                self.change(Change::And, value, |word| word.fetch_and(value, order))
            }

            pub fn fetch_add(&self, value: $plain, order: Ordering) -> $plain {
                self.change(Change::Add, value, |word| word.fetch_add(value, order))
            }

            pub fn fetch_or(&self, value: $plain, order: Ordering) -> $plain {
                self.change(Change::Or, value, |word| word.fetch_or(value, order))
            }

            pub fn swap(&self, value: $plain, order: Ordering) -> $plain {
                self.change(Change::Swap, value, |word| word.swap(value, order))
            }

            fn change(
                &self,
                kind: Change,
                operand: $plain,
                change: impl FnOnce(&loom::sync::atomic::$name) -> $plain,
            ) -> $plain {
                if explorer::is_active() {
                    return explorer::change(self.place(), kind, operand.into()) as $plain;
                }
                if !step() {
                    return 0;
                }
                let before = change(&self.loom());
                count_write();
                before
            }

            pub fn compare_exchange(
                &self,
                current: $plain,
                new: $plain,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$plain, $plain> {
                if explorer::is_active() {
                    let seen = explorer::compare_exchange(self.place(), current.into(), new.into())
                        as $plain;
                    return if seen == current { Ok(seen) } else { Err(seen) };
                }
                if !step() {
                    return Ok(current);
                }
                let result = self.loom().compare_exchange(current, new, success, failure);
                fence_if_seq_cst(success);
                if result.is_ok() {
                    count_write();
                }
                result
            }

            pub fn compare_exchange_weak(
                &self,
                current: $plain,
                new: $plain,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$plain, $plain> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

modelled!(AtomicU32, u32, words32);
modelled!(AtomicU64, u64, words64);
