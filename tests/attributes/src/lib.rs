//! Attribute macros that change the struct which they stand on, as any can.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use proc_macro::TokenStream;

/// Adds a field that leads to this process's own memory.
#[proc_macro_attribute]
pub fn adds_a_field(_: TokenStream, item: TokenStream) -> TokenStream {
    let item = item.to_string();
    let (fields, _) = item.rsplit_once('}').expect("it is a struct with fields");
    parsed(&format!("{}, smuggled: &'static u64 }}", fields.trim_end().trim_end_matches(',')))
}

/// Adds a field that takes no room of its own.
#[proc_macro_attribute]
pub fn adds_a_field_of_no_size(_: TokenStream, item: TokenStream) -> TokenStream {
    let item = item.to_string();
    let (fields, _) = item.rsplit_once('}').expect("it is a struct with fields");
    parsed(&format!(
        "{}, smuggled: ::core::marker::PhantomData<u8> }}",
        fields.trim_end().trim_end_matches(',')
    ))
}

/// Makes references of the atomics.
#[proc_macro_attribute]
pub fn changes_a_type(_: TokenStream, item: TokenStream) -> TokenStream {
    parsed(&item.to_string().replace("AtomicU64", "&'static AtomicU64"))
}

/// Lets the compiler lay the struct out as it likes.
#[proc_macro_attribute]
pub fn takes_repr_away(_: TokenStream, item: TokenStream) -> TokenStream {
    parsed(&item.to_string().replace("#[repr(C)]", ""))
}

/// A type that is another one at each place where it is written.
#[proc_macro]
pub fn another_each_time(_: TokenStream) -> TokenStream {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    // What the struct has is the first.
    parsed(if TIMES.fetch_add(1, Relaxed) == 0 {
        "&'static ::core::sync::atomic::AtomicU64"
    } else {
        "::core::sync::atomic::AtomicU64"
    })
}

/// Changes nothing.
#[proc_macro_attribute]
pub fn changes_nothing(_: TokenStream, item: TokenStream) -> TokenStream {
    item
}

fn parsed(code: &str) -> TokenStream {
    code.parse().expect("it is Rust still")
}
