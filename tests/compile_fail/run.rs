//! What cannot be shared is refused by the compiler, with a message that says what to do.

#[test]
fn what_cannot_be_shared_does_not_compile() {
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}
