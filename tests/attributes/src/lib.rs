//! Attribute macros that change the struct which they stand on, as any can.

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
    parsed(&format!("{}, smuggled: ::core::marker::PhantomData<u8> }}", fields.trim_end().trim_end_matches(',')))
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

/// Changes nothing.
#[proc_macro_attribute]
pub fn changes_nothing(_: TokenStream, item: TokenStream) -> TokenStream {
    item
}

fn parsed(code: &str) -> TokenStream {
    code.parse().expect("it is Rust still")
}
