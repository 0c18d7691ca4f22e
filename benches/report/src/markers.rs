//! Text between two comments of a page in Markdown: one that begins with [`BEGIN`], and `END`.

/// How the first comment begins. What follows it, up to the end of the comment, is the section's
/// name; it may be empty.
const BEGIN: &str = "<!-- begin: by ci/bench.sh";
const END: &str = "<!-- end -->";

/// Returns the page with new text in each section that `ci/bench.sh` writes. `make` gets the
/// section's name. A page without such a section is an error, as is one that does not end.
pub(crate) fn replaced(
    page: &str,
    mut make: impl FnMut(&str) -> Result<String, String>,
) -> Result<String, String> {
    let mut new = String::new();
    let mut count = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        new.push_str(line);
        new.push('\n');
        let Some(rest) = line.strip_prefix(BEGIN) else { continue };
        let name = rest.strip_suffix("-->").ok_or_else(|| format!("no end of: {line}"))?;
        let text = make(name.trim_start_matches(':').trim())?;
        if !lines.any(|line| line == END) {
            return Err(format!("no \"{END}\" after: {line}"));
        }
        new.push_str(&format!("\n{}\n\n{END}\n", text.trim()));
        count += 1;
    }
    if count == 0 { Err(format!("no \"{BEGIN}\" in the page")) } else { Ok(new) }
}

/// Returns a paragraph, or an entry of a list, in lines of at most 100 columns.
pub(crate) fn wrapped(text: &str) -> String {
    const COLUMNS: usize = 100;
    let indent = if text.starts_with("- ") { "  " } else { "" };
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push_str(&line);
            lines.push('\n');
            line = format!("{indent}{word}");
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "above\n\n<!-- begin: by ci/bench.sh: one, two -->\nold\n<!-- end -->\n\
                        between\n<!-- begin: by ci/docs.sh -->\nkept\n<!-- end -->\nbelow\n";

    #[test]
    fn only_the_sections_of_this_script_are_replaced() {
        let new = replaced(PAGE, |name| Ok(format!("new: {name}\n"))).unwrap();
        assert_eq!(
            new,
            "above\n\n<!-- begin: by ci/bench.sh: one, two -->\n\nnew: one, two\n\n<!-- end -->\n\
             between\n<!-- begin: by ci/docs.sh -->\nkept\n<!-- end -->\nbelow\n"
        );
    }

    #[test]
    fn what_was_replaced_can_be_replaced_again() {
        let new = replaced(PAGE, |_| Ok("new".to_owned())).unwrap();
        assert_eq!(replaced(&new, |_| Ok("new".to_owned())).unwrap(), new);
    }

    #[test]
    fn a_section_needs_an_end() {
        let page = "<!-- begin: by ci/bench.sh -->\nold\n";
        assert!(replaced(page, |_| Ok(String::new())).unwrap_err().contains("<!-- end -->"));
    }

    #[test]
    fn a_page_without_a_section_is_an_error() {
        assert!(replaced("text\n", |_| Ok(String::new())).is_err());
    }

    #[test]
    fn a_section_that_cannot_be_made_is_an_error() {
        assert_eq!(replaced(PAGE, |name| Err(name.to_owned())), Err("one, two".to_owned()));
    }

    #[test]
    fn long_text_is_wrapped_at_100_columns() {
        let text = format!("- {}", "word ".repeat(50));
        let wrapped = wrapped(&text);
        assert!(wrapped.lines().all(|line| line.chars().count() <= 100));
        assert!(wrapped.lines().skip(1).all(|line| line.starts_with("  word")));
        assert_eq!(wrapped.split_whitespace().count(), 51);
    }
}
