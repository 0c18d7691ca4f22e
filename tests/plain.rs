//! Plain data for what is a `bool` or a `String` elsewhere.

use std::fmt::Write;
use std::hint::black_box;

use crossproc::{Flag, Lock, Queue, Shm, Text, bytemuck};

/// Returns what a process reads that finds these bytes.
fn of_bytes<const N: usize>(len: u32, bytes: [u8; N]) -> Text<N> {
    *bytemuck::from_bytes(&[&len.to_le_bytes()[..], &bytes].concat())
}

#[test]
fn any_byte_is_a_flag() {
    for byte in 0..=u8::MAX {
        let flag: Flag = bytemuck::cast(byte);
        assert_eq!((flag.get(), flag == Flag::TRUE), (byte != 0, byte != 0));
    }
    assert!(!Flag::default().get() && bool::from(Flag::from(true)));
}

#[test]
fn any_bytes_are_a_text() {
    assert_eq!(of_bytes(u32::MAX, *b"Rome"), "Rome");
    assert_eq!(of_bytes(3, *b"Rome"), "Rom");
    assert_eq!(of_bytes(4, *b"Ro\xffe"), "Ro");
    // Half of a character, as after a death.
    assert_eq!(of_bytes(2, *b"a\xce\x91"), "a");
    assert_eq!(of_bytes(7, []), "");
    assert_eq!(of_bytes(2, *b"abcd"), of_bytes(2, *b"abef"));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut text = Text::<4>::new("Rome").unwrap();
    assert_eq!(
        text.push_str("s").unwrap_err().to_string(),
        "a text of 5 bytes does not fit into one of at most 4"
    );
    assert_eq!(text, "Rome");
    assert!("Romes".parse::<Text<4>>().is_err() && Text::<4>::try_from("Romes").is_err());
    text.clear();
    let (twelve, more) = black_box((12, 345));
    assert!(write!(text, "{twelve}-{more}").is_err());
    assert_eq!(text, "12-");
    assert_eq!(text.push_str(""), Ok(()));
}

#[test]
fn a_truncated_text_ends_with_a_whole_character() {
    assert_eq!(Text::<4>::truncated("Romes"), "Rome");
    assert_eq!(Text::<4>::truncated("Ro"), "Ro");
    assert_eq!(Text::<3>::truncated("\u{391}\u{3b8}"), "\u{391}");
    assert_eq!(Text::<1>::truncated("\u{391}"), "");
    assert_eq!(Text::<0>::truncated("a"), "");
}

#[test]
fn texts_have_an_order_and_print_as_they_read() {
    let [one, other] = ["Ostia", "Rome"].map(|text| Text::<8>::new(text).unwrap());
    assert!(one < other);
    assert_eq!((one.to_string(), format!("{one:?}")), ("Ostia".into(), "\"Ostia\"".into()));
    assert_eq!(format!("{:>7}", other), "   Rome");
}

#[test]
fn they_lie_in_locks_and_queues() {
    let lock = Shm::new(Lock::new(Flag::FALSE)).unwrap();
    lock.lock().unwrap().set(true);
    assert!(lock.lock().unwrap().get());
    let names: Queue<Text<30>> = Queue::new(2).unwrap();
    names.put(Text::new("Rome").unwrap()).unwrap();
    assert_eq!(names.get().unwrap(), "Rome");
}
