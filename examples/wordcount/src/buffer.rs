//! [`Buffer`]: where a file's bytes are read to.

/// The size of a page. Where pages are larger, it divides theirs.
const PAGE: usize = 4_096;

/// A buffer in which each byte lies as far from the beginning of a page as it does in the page
/// cache. The kernel copies with `rep movsb`. Some processors do that at a fifth of their speed if
/// the destination is up to 31 bytes further into its page than the source is into its own; and a
/// large allocation begins 16 bytes into a page.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    /// The beginning of a page, behind one byte at least.
    first: usize,
}

impl Buffer {
    /// Returns a buffer for so many bytes at a time.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; 2 * PAGE + len].into_boxed_slice();
        let start = bytes.as_ptr().addr();
        Buffer { first: (start + 1).next_multiple_of(PAGE) - start, bytes }
    }

    /// Returns room for `len` bytes that are at this offset in a file, and for one byte before
    /// them.
    pub(crate) fn at(&mut self, offset: u64, len: usize) -> &mut [u8] {
        let start = self.first + (offset % PAGE as u64) as usize;
        &mut self.bytes[start - 1..start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_as_far_from_a_page_as_in_the_file() {
        for len in [0, 1, PAGE, 3 * PAGE + 5] {
            let mut buffer = Buffer::new(len);
            for offset in [0, 1, 4_095, 4_096, 70_001, u64::MAX] {
                let bytes = buffer.at(offset, len);
                assert_eq!(bytes.len(), len + 1);
                assert_eq!(bytes[1..].as_ptr().addr() % PAGE, (offset % PAGE as u64) as usize);
            }
        }
    }
}
