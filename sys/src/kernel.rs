//! The kernel's version.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;

/// Returns whether the kernel is older than a version. A kernel that does not tell is taken for a
/// newer one.
pub(crate) fn is_kernel_before(version: (u32, u32)) -> bool {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: writes names where it is told.
    if unsafe { libc::uname(names.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written, since it did not fail.
    let names = unsafe { names.assume_init() };
    is_before(&names.release.map(|byte| byte as u8), version)
}

/// Returns whether a kernel's release is before a version. Returns false if it cannot be read.
fn is_before(release: &[u8], version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| core::str::from_utf8(digits).ok()?.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_both_numbers() {
        for before in ["5.4.0-216-generic", "5.5", "4.18.0-553.el8", "5.5.19"] {
            assert!(is_before(before.as_bytes(), (5, 6)), "{before}");
        }
        for after in ["5.6.0", "5.10.0-30-amd64", "6.1", "10.0", "strange", ""] {
            assert!(!is_before(after.as_bytes(), (5, 6)), "{after}");
        }
    }
}
