//! Just enough CBOR to read what the SDK sends to CloudWatch. Source: RFC 8949, section 3.

use serde_json::{Map, Value};

/// Deeper than any request of ours.
const DEPTH_MAX: u8 = 16;

/// Reads one value; `None` when it is cut off, malformed or of a kind that the SDK does not write.
pub(super) fn decode(bytes: &[u8]) -> Option<Value> {
    let mut rest = bytes;
    value(&mut rest, DEPTH_MAX)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn number(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    Some(take(rest, bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn value(rest: &mut &[u8], depth: u8) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let first = *take(rest, 1)?.first()?;
    let (major, minor) = (first >> 5, first & 0x1f);
    let is_open = minor == 31;
    let argument = match minor {
        0..24 => u64::from(minor),
        24 => number(rest, 1)?,
        25 => number(rest, 2)?,
        26 => number(rest, 4)?,
        27 => number(rest, 8)?,
        31 => u64::MAX,
        _ => return None,
    };
    let length = usize::try_from(argument).ok()?;
    Some(match major {
        0 => argument.into(),
        1 => (-1 - i64::try_from(argument).ok()?).into(),
        2 | 3 => String::from_utf8_lossy(take(rest, length)?).into_owned().into(),
        4 => {
            let mut list = Vec::new();
            while list.len() < length && !(is_open && at_end(rest)) {
                list.push(value(rest, depth)?);
            }
            list.into()
        }
        5 => {
            let mut map = Map::new();
            while map.len() < length && !(is_open && at_end(rest)) {
                let name = value(rest, depth)?.as_str()?.to_owned();
                map.insert(name, value(rest, depth)?);
            }
            map.into()
        }
        // A tag: the SDK marks times with one.
        6 => value(rest, depth)?,
        _ => match minor {
            20 => false.into(),
            21 => true.into(),
            22 | 23 => Value::Null,
            26 => f64::from(f32::from_bits(u32::try_from(argument).ok()?)).into(),
            27 => f64::from_bits(argument).into(),
            _ => return None,
        },
    })
}

/// Whether the mark that ends an open list comes next; it is taken.
fn at_end(rest: &mut &[u8]) -> bool {
    let is_end = rest.first() == Some(&0xff);
    if is_end {
        *rest = &rest[1..];
    }
    is_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_rfc_gives_as_examples_is_read() {
        let cases: [(&[u8], Value); 5] = [
            (&[0x19, 0x03, 0xe8], 1000.into()),
            (&[0x38, 0x63], (-100).into()),
            (&[0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a], 1.1.into()),
            (
                &[0xbf, 0x61, 0x61, 0x01, 0x61, 0x62, 0x9f, 0x02, 0x03, 0xff, 0xff],
                serde_json::json!({"a": 1, "b": [2, 3]}),
            ),
            (
                &[0xa1, 0x61, 0x61, 0xc1, 0x1a, 0x51, 0x4b, 0x67, 0xb0],
                serde_json::json!({"a": 1_363_896_240}),
            ),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(decode(bytes), Some(wanted));
            assert_eq!(decode(&bytes[..bytes.len() - 1]), None, "cut off");
        }
    }
}
