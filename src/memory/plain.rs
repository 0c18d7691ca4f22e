//! [`Flag`] and [`Text`]: plain data for what is a `bool` or a `String` elsewhere.

#![allow(unsafe_code)]

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::Deref;
use core::str::FromStr;

use bytemuck::{Pod, Zeroable};

/// A `bool` as [plain](crate::Plain) data. Any byte but 0 is true.
///
/// ```
/// use crossproc::{Flag, Lock, Shm};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let is_ready: Shm<Lock<Flag>> = Shm::new(Lock::new(Flag::FALSE))?;
/// is_ready.lock()?.set(true);
/// assert!(is_ready.lock()?.get());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Flag(u8);

impl Flag {
    /// The flag of `false`.
    pub const FALSE: Flag = Flag::new(false);
    /// The flag of `true`.
    pub const TRUE: Flag = Flag::new(true);

    /// Creates one.
    #[must_use]
    pub const fn new(value: bool) -> Self {
        Flag(value as u8)
    }

    /// Returns the value.
    #[must_use]
    pub const fn get(self) -> bool {
        self.0 != 0
    }

    /// Sets the value.
    pub const fn set(&mut self, value: bool) {
        *self = Flag::new(value);
    }
}

impl From<bool> for Flag {
    fn from(value: bool) -> Self {
        Flag::new(value)
    }
}

impl From<Flag> for bool {
    fn from(flag: Flag) -> Self {
        flag.get()
    }
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// By the value, whatever the byte.
impl PartialEq for Flag {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Flag {}

impl Hash for Flag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.get().hash(state);
    }
}

/// A text of up to `N` bytes of UTF-8, as [plain](crate::Plain) data. It takes 4 bytes more, and
/// needs no alignment.
///
/// It reads as a `str`. A process may die while it writes one, and a stranger may write anything.
/// So what reads is the longest beginning of the bytes that is UTF-8.
///
/// ```
/// use crossproc::{Lock, Shm, Text};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let name: Shm<Lock<Text<16>>> = Shm::new(Lock::new(Text::new("Rome")?))?;
/// assert_eq!(name.lock()?.len(), 4);
///
/// *name.lock()? = "Ostia".parse()?;
/// name.lock()?.push_str(" Antica")?;
/// assert_eq!(**name.lock()?, *"Ostia Antica");
///
/// let error = name.lock()?.push_str(", on the Tiber").unwrap_err();
/// assert_eq!(error.to_string(), "a text of 26 bytes does not fit into one of at most 16");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Text<const N: usize> {
    /// How many bytes are used: at most `N`, unless a stranger has written it.
    len: [u8; 4],
    bytes: [u8; N],
}

// SAFETY: zeroes are valid bytes of both fields.
unsafe impl<const N: usize> Zeroable for Text<N> {}

// SAFETY: both fields are bytes, any of which is valid, so there is no padding between or behind
// them (`repr(C)`).
unsafe impl<const N: usize> Pod for Text<N> {}

/// A text was too long for a [`Text`]. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text of {len} bytes does not fit into one of at most {max}")]
pub struct TextTooLong {
    len: usize,
    max: usize,
}

impl<const N: usize> Text<N> {
    /// The text without a byte.
    pub const EMPTY: Self = Text { len: [0; 4], bytes: [0; N] };

    /// Creates one.
    ///
    /// # Errors
    /// [`TextTooLong`].
    pub fn new(text: &str) -> Result<Self, TextTooLong> {
        let mut new = Text::EMPTY;
        new.push_str(text)?;
        Ok(new)
    }

    /// Creates one of the longest beginning that fits.
    ///
    /// ```
    /// use crossproc::Text;
    ///
    /// assert_eq!(*Text::<7>::truncated("Αθήνα"), *"Αθή");
    /// ```
    #[must_use]
    pub fn truncated(text: &str) -> Self {
        let fits = |&len: &usize| text.is_char_boundary(len);
        let len = (0..=N.min(text.len())).rev().find(fits).unwrap_or(0);
        let mut new = Text::EMPTY;
        new.set(0, &text.as_bytes()[..len]);
        new
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = (u32::from_le_bytes(self.len) as usize).min(N);
        let bytes = &self.bytes[..len];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// Appends to the text.
    ///
    /// # Errors
    /// [`TextTooLong`].
    pub fn push_str(&mut self, text: &str) -> Result<(), TextTooLong> {
        let (begin, len) = (self.len(), self.len() + text.len());
        if len > N || u32::try_from(len).is_err() {
            return Err(TextTooLong { len, max: N });
        }
        self.set(begin, text.as_bytes());
        Ok(())
    }

    /// Removes all of the text.
    pub fn clear(&mut self) {
        self.len = [0; 4];
    }

    /// Sets what is behind `begin`, and the length last. It fits.
    fn set(&mut self, begin: usize, end: &[u8]) {
        let len = begin + end.len();
        self.bytes[begin..len].copy_from_slice(end);
        self.len = (len as u32).to_le_bytes();
    }
}

impl<const N: usize> Default for Text<N> {
    /// Returns [`Text::EMPTY`].
    fn default() -> Self {
        Text::EMPTY
    }
}

impl<const N: usize> Deref for Text<N> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> AsRef<str> for Text<N> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> FromStr for Text<N> {
    type Err = TextTooLong;

    fn from_str(text: &str) -> Result<Self, TextTooLong> {
        Text::new(text)
    }
}

impl<const N: usize> TryFrom<&str> for Text<N> {
    type Error = TextTooLong;

    fn try_from(text: &str) -> Result<Self, TextTooLong> {
        Text::new(text)
    }
}

/// For [`write!`]. A piece that does not fit is an error, and is not written.
impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text).map_err(|_| fmt::Error)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// By the text, whatever is behind it.
impl<const N: usize, const M: usize> PartialEq<Text<M>> for Text<N> {
    fn eq(&self, other: &Text<M>) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<const N: usize> Eq for Text<N> {}

impl<const N: usize> PartialEq<str> for Text<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl<const N: usize> PartialEq<&str> for Text<N> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl<const N: usize> PartialOrd for Text<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> Ord for Text<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl<const N: usize> Hash for Text<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
