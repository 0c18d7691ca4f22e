//! The most frequent words.

use std::ffi::{OsStr, OsString};

use serde_json::Value;

use super::{Scratch, naive_ranking, random_tree, run, texts};

#[test]
fn top_is_that_of_a_naive_count() {
    let scratch = Scratch::new("top");
    let (tree, expected) = random_tree(&scratch, 7, 100);
    let ranking = naive_ranking(texts(&tree));
    assert!(
        ranking.iter().any(|(word, _)| std::str::from_utf8(word).is_err()),
        "some words are not UTF-8"
    );
    for (chunk, workers) in
        [("1", "2"), ("7", "1"), ("64", "3"), ("1048576", "2"), ("18446744073709551615", "1")]
    {
        for most in [1, 3, 50, ranking.len() - 1, ranking.len(), usize::MAX] {
            let most_arg = most.to_string();
            let args = [
                "--json",
                "--check",
                "--top",
                &most_arg,
                "--chunk",
                chunk,
                "--workers",
                workers,
                tree.to_str().unwrap(),
            ]
            .map(OsString::from);
            let ended = run(&scratch, args);
            assert_eq!(
                (ended.status.code(), ended.counts(), ended.err.as_str()),
                (Some(0), expected, ""),
                "{ended:?}"
            );
            assert_eq!(
                ended.top(),
                ranking[..most.min(ranking.len())],
                "chunks of {chunk}, {workers} workers"
            );
            let json = ended.json();
            assert_eq!(
                (&json["distinct"], &json["check"]["same"]),
                (&ranking.len().into(), &true.into())
            );
        }
    }
}

#[test]
fn a_word_is_counted_whole_wherever_it_is_cut() {
    let scratch = Scratch::new("cut");
    // Lengths next to the ends of chunks, of the bytes that are read behind chunks, of the buffer,
    // and of messages.
    for len in [
        1, 6, 7, 8, 4_095, 4_096, 4_097, 65_523, 65_524, 65_525, 262_143, 262_144, 262_145, 700_000,
    ] {
        let long = vec![b'w'; len];
        let mut text = b"a ".to_vec();
        for end in [" ", "\n", "x ", " a "] {
            text.extend_from_slice(&long);
            text.extend_from_slice(end.as_bytes());
        }
        text.extend_from_slice(&long);
        let file = scratch.file("file", &text);
        for chunk in ["--chunk=7", "--chunk=100000", "--chunk=1048576"] {
            let chunk = if len > 5_000 && chunk == "--chunk=7" { "--chunk=4096" } else { chunk };
            let args = [
                "--json".as_ref(),
                "--top=9".as_ref(),
                "--check".as_ref(),
                "--workers=2".as_ref(),
                chunk.as_ref(),
                file.as_os_str(),
            ];
            let ended = run(&scratch, args);
            assert_eq!(
                (ended.status.code(), ended.err.as_str()),
                (Some(0), ""),
                "words of {len}, {chunk}"
            );
            assert!(ended.top() == naive_ranking([text.clone()]), "words of {len}, {chunk}");
        }
    }
}

#[test]
fn ties_go_to_the_word_whose_bytes_come_first() {
    let scratch = Scratch::new("ties");
    let file = scratch.file("file", b"b aa b aa a \xff\xff ab a \xff\xff \xc3\xa9 z");
    for (most, expected) in [
        ("2", &["a", "aa"][..]),
        ("3", &["a", "aa", "b"]),
        ("5", &["a", "aa", "b", "\\xff\\xff", "ab"]),
    ] {
        let ended = run(
            &scratch,
            ["--top".as_ref(), most.as_ref(), "--chunk=3".as_ref(), file.as_os_str()],
        );
        let top = ended
            .out
            .lines()
            .filter(|line| line.starts_with("top "))
            .map(|line| line.split_whitespace().last().unwrap());
        assert_eq!(top.collect::<Vec<_>>(), expected, "{ended:?}");
    }
}

#[test]
fn text_shows_every_word_in_one_way_of_its_own() {
    let scratch = Scratch::new("escaped");
    let file = scratch.file(
        "file",
        b"\xff \xff \xff \\xff \\xff \0\x1b \0\x1b \0\x1b \0\x1b \"it's\" \xe2\x80\xae\xc3\xa9",
    );
    let ended = run(&scratch, ["--top=9".as_ref(), file.as_os_str()]);
    let expected = "distinct 5 words\n\
        top      4          \\0\\u{1b}\n\
        top      3          \\xff\n\
        top      2          \\\\xff\n\
        top      1          \"it's\"\n\
        top      1          \\u{202e}\u{e9}\n";
    assert!(ended.out.ends_with(expected), "{ended:?}");
}

#[test]
fn words_are_not_counted_without_top() {
    let scratch = Scratch::new("no-top");
    let file = scratch.file("file", "a b\nc\n");
    for args in [&["--json"][..], &["--json", "--top=0", "--check"]] {
        let ended = run(&scratch, args.iter().map(OsStr::new).chain([file.as_os_str()]));
        let json = ended.json();
        assert_eq!(
            (ended.status.code(), &json["top"], &json["distinct"]),
            (Some(0), &Value::Null, &Value::Null),
            "{ended:?}"
        );
    }
    let ended = run(&scratch, ["--top=0".as_ref(), file.as_os_str()]);
    assert!(!ended.out.contains("top ") && !ended.out.contains("distinct"), "{ended:?}");
}

#[test]
fn without_words_there_is_no_top() {
    let scratch = Scratch::new("no-words");
    let file = scratch.file("file", " \n");
    for path in [&file, &scratch.0.join("missing")] {
        let ended = run(
            &scratch,
            ["--json".as_ref(), "--check".as_ref(), "--top=3".as_ref(), path.as_os_str()],
        );
        assert_eq!((ended.top(), &ended.json()["distinct"]), (Vec::new(), &0.into()), "{ended:?}");
    }
}
