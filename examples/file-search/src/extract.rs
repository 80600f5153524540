//! Text out of a file's bytes: pages that end at a line's end, the same ones whoever makes them.

/// The next page: its text, and how many bytes of the file it took. `bytes` is what follows in the file, `is_last`
/// whether the file ends with it.
pub(crate) fn page(bytes: &[u8], page_bytes: usize, is_last: bool) -> (String, usize) {
    let limit = bytes.len().min(page_bytes);
    let end = if is_last && limit == bytes.len() {
        limit
    } else {
        // A line that is longer than a page is cut.
        bytes[..limit].iter().rposition(|byte| *byte == b'\n').map_or(limit, |at| at + 1)
    };
    (text_of(&bytes[..end]), end)
}

/// Words with single spaces between; what is between `<` and `>` is mark-up, what is no UTF-8 is replaced.
fn text_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut is_markup = false;
    for c in text.chars() {
        match c {
            '<' => is_markup = true,
            '>' if is_markup => {
                is_markup = false;
                plain.push(' ');
            }
            c if !is_markup => plain.push(if c.is_control() { ' ' } else { c }),
            _ => {}
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_at_lines_and_cover_every_byte_once() {
        let file = b"one two\nthree\n<b>four</b>\n\xff five and a line that is longer than a page\nsix";
        let (mut at, mut texts) = (0, Vec::new());
        while at < file.len() {
            let (text, taken) = page(&file[at..], 16, true);
            assert!(taken > 0 && taken <= 16);
            at += taken;
            texts.push(text);
        }
        assert_eq!(at, file.len());
        assert_eq!(texts[..2], ["one two three", "four"]);
        assert_eq!(texts.last().map(String::as_str), Some("than a page six"), "the file ends with it");
    }
}
