//! Ranges of a snapshot, one a line, as they come.

use std::fmt::Write;

use goldleaf_proto::v1 as api;

use crate::args::Output;

/// What stands above the ranges.
pub fn heading(output: Output) -> &'static str {
    match output {
        Output::Table => "          OFFSET           LENGTH\n",
        Output::Json | Output::Yaml | Output::Name => "",
    }
}

/// Ranges as lines: bytes, never rounded, since programs read them.
pub fn lines(output: Output, ranges: &[api::BlockRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        let (offset, length) = (range.offset_bytes, range.length_bytes);
        let line = match output {
            Output::Table => writeln!(text, "{offset:>16} {length:>16}"),
            Output::Name => writeln!(text, "{offset}+{length}"),
            // The wire's JSON has 64-bit numbers as texts.
            Output::Json => writeln!(
                text,
                r#"{{"offset_bytes":"{offset}","length_bytes":"{length}"}}"#
            ),
            Output::Yaml => writeln!(
                text,
                "---\noffset_bytes: \"{offset}\"\nlength_bytes: \"{length}\""
            ),
        };
        line.expect("a text takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_lines_of_plain_bytes() {
        let ranges = [(0, 65_536), (1 << 40, 512)].map(|(offset, length)| api::BlockRange {
            offset_bytes: offset,
            length_bytes: length,
        });
        let table = lines(Output::Table, &ranges);
        let words: Vec<Vec<&str>> = table
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(words, [["0", "65536"], ["1099511627776", "512"]]);
        assert_eq!(
            table.lines().next().unwrap().len(),
            heading(Output::Table).len() - 1
        );
        for line in lines(Output::Json, &ranges).lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["offset_bytes"].is_string() && value["length_bytes"].is_string());
        }
        assert_eq!(lines(Output::Name, &ranges[..1]), "0+65536\n");
    }
}
