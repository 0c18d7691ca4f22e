//! Lines, words and bytes.

use super::{Counts, Scratch, naive_count, random_text, random_tree, run};

#[test]
fn totals_are_those_of_a_naive_count() {
    let scratch = Scratch::new("totals");
    let (tree, expected) = random_tree(&scratch, 1, 200);
    for chunk in ["1", "7", "64", "1000", "1048576", "18446744073709551615"] {
        for workers in ["1", "2", "3"] {
            let ended = run(
                &scratch,
                [
                    "--json",
                    "--check",
                    "--chunk",
                    chunk,
                    "--workers",
                    workers,
                    tree.to_str().unwrap(),
                ],
            );
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            assert_eq!(ended.counts(), expected, "chunks of {chunk}, {workers} workers");
            assert_eq!(ended.json()["check"]["same"], true);
            assert_eq!(ended.json()["files"], 205);
            assert_eq!(ended.err, "");
        }
    }
}

#[test]
fn a_word_belongs_to_the_chunk_where_it_starts() {
    let scratch = Scratch::new("boundary");
    let cases: [(&[u8], Counts); 8] = [
        (b"", (0, 0, 0)),
        (b"across the edge", (0, 3, 15)),
        (b"sixlet seven", (0, 2, 12)),
        (b"sevenly seven", (0, 2, 13)),
        (b"longer_than_three_chunks_of_seven x\n", (1, 2, 36)),
        (b"\n\n\n\n\n\n\n\n", (8, 0, 8)),
        (b"      a      a", (0, 2, 14)),
        (b"aaaaaaa\x0baaaaaaa", (0, 2, 15)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(naive_count(bytes), expected);
        let file = scratch.file("file", bytes);
        let ended = run(
            &scratch,
            ["--json".as_ref(), "--chunk=7".as_ref(), "--workers=2".as_ref(), file.as_os_str()],
        );
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{bytes:?}");
    }
}

#[test]
fn a_file_longer_than_the_buffer_is_counted() {
    let scratch = Scratch::new("long");
    let mut text = random_text(&mut fastrand::Rng::with_seed(2), 1_500_000);
    text.extend_from_slice(&[b'w'; 700_000]);
    let file = scratch.file("file", &text);
    for chunk in ["--chunk=1048576", "--chunk=300000", "--chunk=4000000"] {
        let ended = run(
            &scratch,
            ["--json".as_ref(), "--check".as_ref(), chunk.as_ref(), file.as_os_str()],
        );
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), naive_count(&text)), "{chunk}");
    }
}
