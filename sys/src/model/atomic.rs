//! Atomics that lead to loom's by their address: `const fn new` and the layout of the real ones. See [`model`](crate::model).

use core::ptr;
use std::rc::Rc;

pub use core::sync::atomic::Ordering;

use crate::model::{WORLD, count_write, step};

macro_rules! modelled {
    ($name:ident, $plain:ty, $words:ident) => {
        /// A modelled atomic.
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name {
            /// What loom's atomic starts with; never written.
            initial: core::sync::atomic::$name,
        }

        #[allow(missing_docs, reason = "the standard library's methods")]
        impl $name {
            pub const fn new(value: $plain) -> Self {
                $name { initial: core::sync::atomic::$name::new(value) }
            }

            pub(crate) fn loom(&self) -> Rc<loom::sync::atomic::$name> {
                let address = ptr::from_ref(self).addr();
                WORLD.with_borrow_mut(|world| {
                    let made = || Rc::new(loom::sync::atomic::$name::new(self.initial.load(Ordering::Relaxed)));
                    Rc::clone(world.$words.entry(address).or_insert_with(made))
                })
            }

            pub fn load(&self, order: Ordering) -> $plain {
                if step() { self.loom().load(order) } else { 0 }
            }

            pub fn store(&self, value: $plain, order: Ordering) {
                if step() {
                    self.loom().store(value, order);
                    count_write();
                }
            }

            pub fn fetch_and(&self, value: $plain, order: Ordering) -> $plain {
                if !step() {
                    return 0;
                }
                let before = self.loom().fetch_and(value, order);
                count_write();
                before
            }

            pub fn compare_exchange(&self, current: $plain, new: $plain, success: Ordering, failure: Ordering) -> Result<$plain, $plain> {
                if !step() {
                    return Ok(current);
                }
                let result = self.loom().compare_exchange(current, new, success, failure);
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
