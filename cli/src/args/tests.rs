use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::values::{duration, file_and_size, key_value, server, sha256, size};
use super::{Args, Command, Image, Output, Pool, Volume};

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("goldleaf").chain(line.split_whitespace()))
}

fn refusal(line: &str) -> String {
    match parse(line) {
        Ok(args) => panic!("{line} was taken: {args:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn every_command_shows_examples_that_parse() {
    fn visit(path: &str, command: &clap::Command, examples: &mut Vec<String>) {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(help.starts_with("Example"), "{path} --help has no example");
        assert!(help.contains("goldleaf "), "{path} --help has no example");
        examples.extend(help.lines().skip(1).map(str::to_owned));
        command
            .get_subcommands()
            .filter(|c| c.get_name() != "help")
            .for_each(|c| {
                visit(&format!("{path} {}", c.get_name()), c, examples);
            });
    }
    let mut examples = Vec::new();
    visit("goldleaf", &Args::command(), &mut examples);
    for example in examples {
        let Some(line) = example.trim().strip_prefix("goldleaf ") else {
            continue; // the rest of a line, or a shell's own command
        };
        let line = line.split(['|', '>']).next().unwrap();
        let line = line.replace("$SUM", &"0".repeat(64)); // as the shell would
        parse(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn a_volume_is_asked_for_in_one_line() {
    let args = parse(
        "vol create vm1 --size 20G --image debian-12 -l a=b -l c=d --pool-label tier=fast \
         --activate -o json --timeout 5m",
    )
    .unwrap();
    assert_eq!(args.global.output, Output::Json);
    assert_eq!(args.global.timeout.as_secs(), 300);
    let Command::Volume(Volume::Create(wanted)) = args.command else {
        panic!("not a creation")
    };
    assert_eq!((wanted.name.as_str(), wanted.size), ("vm1", 20 << 30));
    assert_eq!(
        (wanted.image.as_str(), wanted.pool.as_str()),
        ("debian-12", "")
    );
    assert_eq!(
        wanted.labels.labels,
        [("a".into(), "b".into()), ("c".into(), "d".into())]
    );
    assert_eq!(wanted.pool_labels, [("tier".into(), "fast".into())]);
    assert!(wanted.activate);
}

#[test]
fn a_pool_takes_devices_or_files_and_at_least_one() {
    let args = parse("pool create p --file /x=y.pool=1G --block-size 128K").unwrap();
    let Command::Pool(Pool::Create(wanted)) = args.command else {
        panic!("not a creation")
    };
    assert_eq!(wanted.files, [("/x=y.pool".into(), 1 << 30)]);
    assert_eq!(wanted.block_size, 128 << 10);
    assert!(refusal("pool create p").contains("--device"));
}

#[test]
fn an_image_has_one_source_and_a_url_its_checksum() {
    assert!(refusal("image create i").contains("--file"));
    assert!(refusal("image create i --file /a --device /b").contains("cannot be used with"));
    assert!(refusal("image create i --url http://x/y").contains("--sha256"));
    let sum = "AB".repeat(32);
    let args = parse(&format!("image create i --url http://x/y --sha256 {sum}")).unwrap();
    let Command::Image(Image::Create(wanted)) = args.command else {
        panic!("not a creation")
    };
    assert_eq!(wanted.sha256, Some("ab".repeat(32)));
}

#[test]
fn help_and_usage_errors_have_their_own_exit_codes() {
    assert_eq!(
        parse("volume --help").unwrap_err().kind(),
        ErrorKind::DisplayHelp
    );
    assert_eq!(parse("volume --help").unwrap_err().exit_code(), 0);
    assert_eq!(parse("volume create x").unwrap_err().exit_code(), 2);
    assert_eq!(parse("volume list -o xml").unwrap_err().exit_code(), 2);
}

#[test]
fn sizes_are_binary_whole_and_never_wrap() {
    for (text, bytes) in [
        ("20G", 20 << 30),
        ("64KiB", 64 << 10),
        ("21474836480", 20 << 30),
        ("1t", 1 << 40),
        ("512B", 512),
        ("5 MiB", 5 << 20),
        ("0", 0),
        ("2P", 2 << 50),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for bad in [
        "",
        "x",
        "G",
        "-1",
        "1.5G",
        "20GB",
        "1X",
        "16384P",
        "18446744073709551616",
    ] {
        assert!(size(bad).is_err(), "{bad:?} passed");
    }
}

#[test]
fn values_say_what_they_want() {
    assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
    assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
    assert!(key_value("=b").is_err() && key_value("ab").is_err());
    assert!(file_and_size("/a").is_err() && file_and_size("=1G").is_err());
    assert_eq!(
        sha256(&format!("sha256:{}", "0".repeat(64))),
        Ok("0".repeat(64))
    );
    assert!(sha256("5f0c").is_err() && sha256(&"g".repeat(64)).is_err());
    assert!(duration("5m").is_ok());
    assert!(duration("soon").unwrap_err().contains("30s"));
    assert!(server("http://127.0.0.1:4700").is_ok() && server("http://[::1]:4700").is_ok());
    for bad in ["127.0.0.1:4700", "https://host:1", "", "http://"] {
        assert!(
            server(bad).unwrap_err().contains("http://127.0.0.1:4700"),
            "{bad}"
        );
    }
}

#[test]
fn an_update_changes_something_and_not_both_ways() {
    let args = parse("volumes update vm1 --label a=1 --unlabel b --protect --if-revision 7");
    let Command::Volume(Volume::Update(wanted)) = args.unwrap().command else {
        panic!("not an update")
    };
    assert_eq!(wanted.labels, [("a".into(), "1".into())]);
    assert_eq!(
        (wanted.unlabel, wanted.protect),
        (vec!["b".to_owned()], true)
    );
    assert_eq!((wanted.unprotect, wanted.if_revision), (false, 7));
    assert!(refusal("pool update fast").contains("--label"));
    assert!(refusal("pool update fast --protect --unprotect").contains("cannot be used with"));
}
