//! The objects of this process, which are its program and the libraries that are loaded:
//! `dl_iterate_phdr(3)`.
//!
//! Reference: <https://man7.org/linux/man-pages/man3/dl_iterate_phdr.3.html>

#![allow(unsafe_code)]

use core::ffi::{c_int, c_void};
use core::ptr;
use core::slice;

/// Returns whether three addresses are in the same object.
#[must_use]
pub fn are_in_one(mut addresses: [usize; 3]) -> bool {
    // SAFETY: the function below takes the pointer for what it is, and it lives until the end of
    // the call.
    unsafe { libc::dl_iterate_phdr(Some(has_all), ptr::from_mut(&mut addresses).cast()) == 1 }
}

/// Returns 1 if the object has all addresses, which ends the iteration, and 0 otherwise.
extern "C" fn has_all(info: *mut libc::dl_phdr_info, _: usize, looked_for: *mut c_void) -> c_int {
    // SAFETY: `are_in_one` has given it, and waits.
    let looked_for = unsafe { &*looked_for.cast::<[usize; 3]>() };
    // SAFETY: the loader gives a whole record, which is there until this returns.
    let info = unsafe { &*info };
    // SAFETY: the record says where the headers are, and how many.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let is_here = |address: &usize| {
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD).any(|header| {
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            address.wrapping_sub(start) < header.p_memsz as usize
        })
    };
    c_int::from(looked_for.iter().all(is_here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_where_its_neighbour_is_and_libcs_are_elsewhere() {
        let own = [has_all as *const () as usize, are_in_one as *const () as usize];
        let with = |other| are_in_one([own[0], own[1], other]);
        assert!(with(own[0]));
        assert!(!with(ptr::from_ref(&*Box::new(7)) as usize));
        assert!(!with(0));
        // In a static program, it is in the same object.
        #[cfg(not(target_feature = "crt-static"))]
        assert!(!with(libc::getpid as *const () as usize));
    }
}
