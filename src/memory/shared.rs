//! The types that may lie in memory that other processes write: [`Shared`] and [`Plain`], and
//! [`shared!`](crate::shared!), which declares structs.

#![allow(unsafe_code)]

use core::any::type_name;
use core::sync::atomic;

use bytemuck::AnyBitPattern;

/// Data for which every sequence of bytes is a valid value, and which means the same in every
/// process: integers, floats, arrays of them, and structs that derive [`bytemuck::AnyBitPattern`].
///
/// It holds no pointers, no references, no `bool`, `char` or enums: a process may die halfway
/// through writing one, and its peers read what is there. [`Flag`](crate::Flag) stands for a
/// `bool`, and [`Text`](crate::Text) for a short `String`. `Plain` data is reached through
/// something that orders the accesses, such as a [`Lock`](crate::Lock), or copied out of a
/// [`Fixed`](crate::Fixed).
///
/// ```
/// // Without the second attribute: "could not find `bytemuck` in the list of imported crates".
/// // Without `repr(C)`, other programs may lay the struct out differently.
/// use crossproc::{Lock, bytemuck::AnyBitPattern};
///
/// #[derive(Clone, Copy, AnyBitPattern)]
/// #[bytemuck(crate = "crossproc::bytemuck")]
/// #[repr(C)]
/// struct Position { x: f64, y: f64 }
///
/// static HERE: Lock<Position> = Lock::new(Position { x: 0.0, y: 0.0 });
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not plain data: some bytes that a dying process may leave are no valid \
               value of it",
    label = "not plain data",
    note = "integers, floats, and arrays of them are plain data; a struct of such fields is, if it \
            has `#[repr(C)]` and `#[derive(Clone, Copy, crossproc::bytemuck::AnyBitPattern)]` with \
            `#[bytemuck(crate = \"crossproc::bytemuck\")]`",
    note = "there can be no pointers, references, `bool`, `char`, enums: use `crossproc::Flag` for \
            a `bool`, and `crossproc::Text` for a short `String`, or send a `String`, a `Vec` or \
            such as a message, through a `ByteQueue` or a `Connection`, with `put_value` or \
            `send_value` of the feature `serde`"
)]
pub trait Plain: AnyBitPattern + Send {}

// `Send` keeps raw pointers out, even where bytemuck is compiled to accept them as plain data.
#[diagnostic::do_not_recommend]
impl<T: AnyBitPattern + Send> Plain for T {}

/// What a [`Lock`](crate::Lock) or an [`RwLock`](crate::RwLock) may protect: [plain data](Plain),
/// or a slice of it, whose length is given at run time. Implemented for these two only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not plain data: some bytes that a dying process may leave are no valid \
               value of it",
    label = "not plain data",
    note = "integers, floats, and arrays of them are plain data; a struct of such fields is, if it \
            has `#[repr(C)]` and `#[derive(Clone, Copy, crossproc::bytemuck::AnyBitPattern)]` with \
            `#[bytemuck(crate = \"crossproc::bytemuck\")]`"
)]
pub trait Guarded: sealed::Guarded + Send {}

#[diagnostic::do_not_recommend]
impl<T: Plain> Guarded for T {}
#[diagnostic::do_not_recommend]
impl<T: Plain> Guarded for [T] {}

mod sealed {
    use super::Plain;

    pub trait Guarded {}

    impl<T: Plain> Guarded for T {}
    impl<T: Plain> Guarded for [T] {}
}

/// Types whose values may be used, by shared reference, in memory that other processes write at the
/// same time.
///
/// They are: the atomics except `AtomicBool` and `AtomicPtr`, this crate's primitives, arrays of
/// those, and structs of those that are declared with [`shared!`](crate::shared!). A plain integer
/// is not among them: a reference to it would promise the compiler that its value does not change.
/// Use an atomic, a [`Lock`](crate::Lock) around it, or [`Fixed`](crate::Fixed) for what is set
/// once.
///
/// # Safety
/// - Every sequence of bytes of this size is a valid value, and may change to another at any time
///   while a `&Self` exists. All bytes are atomics, or in `UnsafeCell`s that are accessed under a
///   protocol.
/// - There are no pointers, and the address does not matter: the value may be mapped at several
///   addresses at once.
/// - The layout is fixed (`repr(C)` or `transparent`), and [`layout`](Shared::layout) describes it.
///   [`fields`](Shared::fields) names what lies there, and nothing else.
/// - There is nothing to drop.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lie in memory that other processes write",
    label = "not `Shared`",
    note = "atomics (but not `AtomicBool`, `AtomicPtr`), `Lock`, `Event` and this crate's other \
            primitives, arrays of those and structs declared with `crossproc::shared!` can",
    note = "queues, connections and `Shm` are handles to memory of their own: keep them beside it, \
            and clone them for each child",
    note = "put plain data such as integers into a `Lock<T>`, or into a `Fixed<T>` if it is \
            set once"
)]
pub unsafe trait Shared: Sync + 'static {
    /// Adds the layout of this type to a fingerprint. Two types add the same if one program may
    /// take the other's memory for its own.
    ///
    /// ```
    /// use crossproc::{Fingerprint, Lock, Plain, Shared};
    ///
    /// #[repr(transparent)]
    /// struct Total<T>(Lock<T>);
    ///
    /// // SAFETY: it is nothing but a lock.
    /// unsafe impl<T: Plain> Shared for Total<T> {
    ///     fn layout(to: &mut Fingerprint) {
    ///         Lock::<T>::layout(to);
    ///     }
    ///
    ///     fn set_up(&mut self) {
    ///         self.0.set_up();
    ///     }
    /// }
    ///
    /// assert_ne!(Fingerprint::of::<Total<u64>>(), Fingerprint::of::<Total<f64>>());
    /// ```
    fn layout(to: &mut Fingerprint);

    /// Makes a new value out of zeros, for [`Shm::new_in_place`](crate::Shm::new_in_place).
    ///
    /// The default leaves the zeros as they are, for types whose new value is all zeros.
    ///
    /// ```
    /// use crossproc::{Fingerprint, Lock, Plain, Shared, Shm};
    ///
    /// #[repr(transparent)]
    /// struct Total<T>(Lock<T>);
    ///
    /// // SAFETY: it is nothing but a lock.
    /// unsafe impl<T: Plain> Shared for Total<T> {
    ///     fn layout(to: &mut Fingerprint) {
    ///         Lock::<T>::layout(to);
    ///     }
    ///
    ///     fn set_up(&mut self) {
    ///         self.0.set_up();
    ///     }
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let total = Shm::new_in_place(|total: &mut Total<u64>| *total.0.get_mut() = 5)?;
    /// assert_eq!(*total.0.lock()?, 5);
    /// # Ok(())
    /// # }
    /// ```
    fn set_up(&mut self) {}

    /// Adds what a value at an offset consists of, so that it can be handed out by itself
    /// ([`Parts`](crate::Parts)). A type that only wraps another one forwards it, as
    /// [`Fields`] shows. The default adds the value as a whole, which is right for every type.
    fn fields(to: &mut Fields, at: usize)
    where
        Self: Sized,
    {
        to.whole::<Self>(at);
    }
}

/// A hash of a type's layout. By it a program recognises memory that another program, or another
/// build of it, laid out differently.
///
/// It is FNV-1a over the names of types and fields, their sizes, alignments and offsets.
#[derive(Debug, Clone)]
pub struct Fingerprint(u64);

impl Fingerprint {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0100_0000_01b3;

    pub(crate) fn new() -> Self {
        Fingerprint(Self::FNV_OFFSET)
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }

    /// Returns the fingerprint of a type.
    ///
    /// ```
    /// use crossproc::{Event, Fingerprint, Lock};
    ///
    /// assert_eq!(Fingerprint::of::<Lock<u64>>(), Fingerprint::of::<Lock<u64>>());
    /// assert_ne!(Fingerprint::of::<Lock<u64>>(), Fingerprint::of::<Lock<i64>>());
    /// assert_ne!(Fingerprint::of::<[Event; 2]>(), Fingerprint::of::<[Event; 3]>());
    /// ```
    #[must_use]
    pub fn of<T: Shared>() -> u64 {
        let mut fingerprint = Fingerprint::new();
        fingerprint.shared::<T>();
        fingerprint.value()
    }

    /// Adds a name: of a type, of a field, or to distinguish otherwise equal layouts.
    #[doc(hidden)]
    pub fn name(&mut self, name: &str) -> &mut Self {
        // The length keeps adjacent names apart.
        self.number(name.len()).bytes(name.as_bytes())
    }

    /// Adds a number: a length, an offset.
    #[doc(hidden)]
    pub fn number(&mut self, number: usize) -> &mut Self {
        self.bytes(&(number as u64).to_le_bytes())
    }

    /// Adds another shared type: its size, its alignment and its layout.
    #[doc(hidden)]
    pub fn shared<T: Shared>(&mut self) -> &mut Self {
        self.number(size_of::<T>()).number(align_of::<T>());
        T::layout(self);
        self
    }

    /// Adds the shared type of a field, which the function points to. The function is not called.
    #[doc(hidden)]
    pub fn field<S, T: Shared>(&mut self, _: fn(&S) -> *const T) -> &mut Self {
        self.shared::<T>()
    }

    /// Returns the size and alignment of a field, which must be shared. The function is not called.
    #[doc(hidden)]
    #[must_use]
    pub const fn size_and_align<S, T: Shared>(_: fn(&S) -> *const T) -> (usize, usize) {
        (size_of::<T>(), align_of::<T>())
    }

    /// Adds a plain type: its size, its alignment, and its name without the path. The path may
    /// differ between the programs that share it.
    #[doc(hidden)]
    pub fn plain<T: Plain>(&mut self) -> &mut Self {
        self.number(size_of::<T>()).number(align_of::<T>());
        for word in
            type_name::<T>().split_inclusive(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        {
            self.name(word.rsplit("::").next().unwrap_or(word));
        }
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(Self::FNV_PRIME));
        self
    }
}

/// The most fields that a region tells of: as many as there is room for on its header page.
pub(crate) const MOST_FIELDS: usize = 124;

/// A primitive, or some of one type, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub(super) offset: u64,
    /// The size of one. Not 0, nor is the count.
    pub(super) size: u64,
    pub(super) count: u64,
    pub(super) fingerprint: u64,
}

impl Field {
    /// Returns the end of the last one, or `None` if no region is that long.
    pub(super) fn checked_end(self) -> Option<u64> {
        self.size.checked_mul(self.count)?.checked_add(self.offset)
    }

    /// Returns the same of a field that was checked.
    pub(super) fn end(self) -> u64 {
        self.checked_end().unwrap_or(u64::MAX)
    }
}

/// What a type consists of, while it is listed: see [`Shared::fields`].
///
/// ```
/// use crossproc::{Event, Fields, Fingerprint, Shared};
///
/// #[repr(transparent)]
/// struct Bell(Event);
///
/// // SAFETY: it is nothing but an event.
/// unsafe impl Shared for Bell {
///     fn layout(to: &mut Fingerprint) {
///         Event::layout(to);
///     }
///
///     fn fields(to: &mut Fields, at: usize) {
///         Event::fields(to, at);
///     }
/// }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bell = crossproc::Shm::new(Bell(Event::new()))?;
/// bell.part(&bell.0)?.set();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Fields {
    fields: Vec<Field>,
    is_too_long: bool,
}

impl Fields {
    /// Returns the fields of a type, or `None` if there are too many.
    pub(crate) fn of<T: Shared>() -> Option<Vec<Field>> {
        let mut fields = Fields::default();
        T::fields(&mut fields, 0);
        fields.all()
    }

    /// Returns the same of a slice.
    pub(crate) fn of_slice<T: Shared>(len: usize) -> Option<Vec<Field>> {
        let mut fields = Fields::default();
        fields.array::<T>(0, len);
        fields.all()
    }

    fn all(self) -> Option<Vec<Field>> {
        if self.is_too_long { None } else { Some(self.fields) }
    }

    /// Adds a value at an offset as a field.
    fn whole<T: Shared>(&mut self, at: usize) {
        self.push(Field {
            offset: at as u64,
            size: size_of::<T>() as u64,
            count: 1,
            fingerprint: Fingerprint::of::<T>(),
        });
    }

    /// Adds the fields of an array at an offset.
    fn array<T: Shared>(&mut self, at: usize, len: usize) {
        let Some(of_one) = Fields::of::<T>() else {
            self.is_too_long |= len != 0;
            return;
        };
        let (at, len, size) = (at as u64, len as u64, size_of::<T>() as u64);
        match of_one[..] {
            [] => {}
            // Nothing lies between one and the next.
            [one] if one.offset == 0 && one.end() == size => {
                self.push(Field { offset: at, count: one.count.saturating_mul(len), ..one });
            }
            _ => {
                for index in 0..len {
                    if self.is_too_long {
                        return;
                    }
                    // No overflow: the array is part of a type, or of a region.
                    let first = at + index * size;
                    of_one.iter().for_each(|one| {
                        self.push(Field { offset: first + one.offset, ..*one });
                    });
                }
            }
        }
    }

    /// Adds the fields of a struct's field at an offset. The function is not called.
    #[doc(hidden)]
    pub fn field<S, T: Shared>(&mut self, at: usize, _: fn(&S) -> *const T) {
        T::fields(self, at);
    }

    fn push(&mut self, field: Field) {
        if field.size == 0 || field.count == 0 {
            return;
        }
        if self.fields.len() == MOST_FIELDS {
            self.is_too_long = true;
        } else {
            self.fields.push(field);
        }
    }
}

macro_rules! shared_atomics {
    ($($atomic:ident)*) => {$(
        // SAFETY: an atomic integer: all its bytes are in it, and every value is valid.
        unsafe impl Shared for atomic::$atomic {
            fn layout(to: &mut Fingerprint) {
                to.name(stringify!($atomic));
            }
        }
    )*};
}

shared_atomics!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize);
shared_atomics!(AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);

// SAFETY: its elements lie one after the other, with nothing between them.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {
    fn layout(to: &mut Fingerprint) {
        to.name("array").number(N).shared::<T>();
    }

    fn set_up(&mut self) {
        self.iter_mut().for_each(T::set_up);
    }

    fn fields(to: &mut Fields, at: usize) {
        to.array::<T>(at, N);
    }
}

/// Declares a struct that can lie in shared memory.
///
/// The struct becomes `#[repr(C)]` and [`Shared`](trait@crate::Shared). Each field's type is
/// checked at compile time. So is that there is nothing to drop, and that no attribute has added a
/// field, changed a type or moved a field. Structs with parameters are not accepted: declare one
/// for each set of them.
///
/// ```
/// use crossproc::{Event, Fixed, Lock, Shm, shared};
/// use std::sync::atomic::AtomicU64;
///
/// shared! {
///     /// What all workers see.
///     pub struct Board {
///         pub hits: Lock<u64>,
///         pub ready: Event,
///         pub limit: Fixed<u32>,
///         per_worker: [AtomicU64; 4],
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let board = Shm::new(Board {
///     hits: Lock::new(0),
///     ready: Event::new(),
///     limit: Fixed::new(10),
///     per_worker: Default::default(),
/// })?;
/// *board.hits.lock()? += 1;
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! shared {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type,)* }

        // What is shared is the struct as its attributes have left it, so that is what is checked.
        // The types are taken from its fields: written out again, they could mean others where a
        // macro makes them.
        #[allow(dead_code, unused_mut, unused_assignments)]
        const _: () = {
            fn has_these_fields_and_no_others(value: &$name) {
                let $name { $($field: _,)* } = value;
            }

            let mut end = 0_usize;
            $(
                let (size, align) =
                    $crate::Fingerprint::size_and_align(|value: &$name| &raw const value.$field);
                end = end.next_multiple_of(align);
                ::core::assert!(
                    ::core::mem::offset_of!($name, $field) == end,
                    ::core::concat!(
                        ::core::stringify!($name),
                        ": an attribute has taken `repr(C)` away, or added a field"
                    ),
                );
                end += size;
            )*
            ::core::assert!(
                ::core::mem::size_of::<$name>()
                    == end.next_multiple_of(::core::mem::align_of::<$name>()),
                ::core::concat!(
                    ::core::stringify!($name),
                    ": an attribute has taken `repr(C)` away, or added a field"
                ),
            );
            ::core::assert!(
                !::core::mem::needs_drop::<$name>(),
                ::core::concat!(
                    ::core::stringify!($name),
                    " is dropped: nobody would do that for the last process that dies"
                ),
            );
        };

        // SAFETY: laid out as by `repr(C)`; every field is `Shared`, there are no others, and there
        // is nothing to drop: all checked above.
        #[allow(unsafe_code)]
        unsafe impl $crate::Shared for $name {
            fn layout(to: &mut $crate::Fingerprint) {
                to.name(::core::stringify!($name));
                $(
                    to.name(::core::stringify!($field));
                    to.number(::core::mem::offset_of!($name, $field));
                    to.field(|value: &$name| &raw const value.$field);
                )*
            }

            fn set_up(&mut self) {
                let $name { $($field,)* } = self;
                $( $crate::Shared::set_up($field); )*
            }

            #[allow(unused_variables)]
            fn fields(to: &mut $crate::Fields, at: usize) {
                $(
                    to.field(
                        at + ::core::mem::offset_of!($name, $field),
                        |value: &$name| &raw const value.$field,
                    );
                )*
            }
        }
    };
}
