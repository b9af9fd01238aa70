use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::config::tree::text;

/// Any use of the environment finds these.
fn variables() -> BTreeMap<String, String> {
    [("PORT", "7001"), ("EMPTY", ""), ("HOST", "redis"), ("PADDED", " 12px")]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .into()
}

fn read_text(file: &str) -> Result<Map<String, Value>, String> {
    read("soketi.config.js", file, &variables())
}

/// The value of `a` as text, and its origin.
fn value(expression: &str) -> (Option<String>, String) {
    let settings = read_text(&format!("module.exports = {{ a: {expression} }};")).unwrap();
    (text(&settings["a"]), Origin::of(&settings["a"]).unwrap().to_string())
}

fn fault(expression: &str) -> String {
    read_text(&format!("module.exports = {{ a: {expression} }};")).unwrap_err()
}

#[test]
fn what_data_may_be_is_read() {
    for (expression, expected) in [
        ("'single' ", "single"),
        ("\"double\"", "double"),
        ("`a\nb $x {y}`", "a\nb $x {y}"),
        (r#""\u0041\x42\u{1F600}\ud83d\ude00\n\"\\\/""#, "AB😀😀\n\"\\/"),
        ("'a\\\nb'", "ab"),
        ("6001", "6001"),
        ("-1", "-1"),
        ("+1.50", "1.5"),
        ("1e3", "1000"),
        ("1_000", "1000"),
        ("0x10", "16"),
        ("1024 * 1024 // 1MB\n", "1048576"),
        ("(1.5 * 2)", "3"),
        ("true", "true"),
        ("[1, 'b', [ ], { c: 'd', }, ]", r#"[1,"b",[],{"c":"d"}]"#),
        ("/* a */ 1 /* b\n */", "1"),
    ] {
        assert_eq!(value(expression).0.as_deref(), Some(expected), "{expression}");
    }
    for none in ["null", "undefined", "'null'", "process.env.NOBODY", "process.env.NOBODY || null"] {
        assert_eq!(value(none).0, None, "{none}");
    }
}

#[test]
fn the_environment_is_asked_and_remembered_as_origin() {
    for (expression, expected, origin) in [
        ("process.env.PORT || 6001", "7001", "soketi.config.js:1, PORT"),
        ("process.env[\"PORT\"]", "7001", "soketi.config.js:1, PORT"),
        ("process.env.NOBODY || 6001", "6001", "soketi.config.js:1"),
        ("process.env.EMPTY || 'x'", "x", "soketi.config.js:1"),
        ("process.env.EMPTY ?? 'x'", "", "soketi.config.js:1, EMPTY"),
        ("process.env.NOBODY ?? process.env.HOST ?? 'x'", "redis", "soketi.config.js:1, HOST"),
        ("parseInt(process.env.PORT, 10)", "7001", "soketi.config.js:1, PORT"),
        ("parseInt(process.env.PADDED)", "12", "soketi.config.js:1, PADDED"),
        ("parseInt(process.env.NOBODY) || 6001", "6001", "soketi.config.js:1"),
        ("Number(process.env.PORT ?? 1)", "7001", "soketi.config.js:1, PORT"),
        ("false || 0 || '' || 'last'", "last", "soketi.config.js:1"),
    ] {
        let found = value(expression);
        assert_eq!((found.0.as_deref(), found.1.as_str()), (Some(expected), origin), "{expression}");
    }
}

#[test]
fn a_file_is_json_or_exports_one_value() {
    for file in [
        "{\"a\": 1}",
        "// c\n'use strict';\nmodule.exports = { a: 1 };",
        "export default { 'a': 1 }",
        "\n  module . exports={a:1}\n",
    ] {
        assert_eq!(read_text(file).unwrap()["a"].kind, ValueKind::I64(1), "{file}");
    }
}

#[test]
fn code_is_refused_with_its_line_and_never_shown() {
    for (file, line) in [
        ("const hush = 1;\nmodule.exports = hush;", 1),
        ("require('dotenv').config();", 1),
        ("module.exports = hush;", 1),
        ("module.exports = {\n a: hush() }", 2),
        ("module.exports = {\n a: `${hush}` }", 2),
        ("module.exports = {\n a: 'hu' + 'sh' }", 2),
        ("module.exports = {\n a: process.env }", 2),
        ("module.exports = {\n ...hush }", 2),
        ("module.exports = {\n hush }", 2),
        ("module.exports = {\n hush() {} }", 2),
        ("module.exports = {\n [hush]: 1 }", 2),
        ("module.exports = {\n a: hush ? 1 : 2 }", 2),
        ("module.exports = {\n a: process.env.HOST === 'hush' }", 2),
        ("module.exports = {\n a: () => 1 }", 2),
        ("module.exports = {};\nhush();", 2),
        ("module.exports = {\n a: /hush/ }", 2),
    ] {
        let fault = read_text(file).unwrap_err();
        assert!(fault.starts_with(&format!("soketi.config.js:{line}: ")), "{file}: {fault}");
        assert!(!fault.contains("hush"), "{file}: {fault}");
    }
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (expression, what) in [
        ("1,\n b: 2,\n a: 3", ":3: \"a\" is given twice"),
        ("'x", ":1: this text is not closed"),
        ("'x\n'", ":2: this text is not closed"),
        ("1 /* x", ":1: this comment is not closed"),
        ("'\\q'", ":1: the letters behind the backslash"),
        ("'\\ud800'", ":1: the letters behind the backslash"),
        ("007", ":1: a number that begins with 0 must stand in quotes"),
        ("1x", ":1: this is not a number"),
        ("1e999", ":1: this is not a number"),
        ("'a' * 2", ":1: only numbers can be multiplied"),
        ("9223372036854775807 * 2", ":1: this product is too large"),
        ("1 2", ":1: a comma or } must stand here"),
        ("", ":1: this is code"),
    ] {
        let fault = fault(expression);
        assert!(fault.starts_with(&format!("soketi.config.js{what}")), "{expression}: {fault}");
    }
    for (file, what) in [
        ("", ":1: the file ends where a value must stand"),
        ("[1]", ":1: settings must stand in braces"),
        ("{\n\"a\": 1,\n", ":3: the file ends before a brace is closed"),
    ] {
        let fault = read_text(file).unwrap_err();
        assert!(fault.starts_with(&format!("soketi.config.js{what}")), "{file}: {fault}");
    }
}

#[test]
fn depth_is_bounded() {
    for open in ["[", "(", "{a:", "parseInt("] {
        let fault = fault(&open.repeat(100_000));
        assert!(fault.contains("more than 64 brackets are open"), "{open}: {fault}");
    }
    assert!(value(&format!("{}1{}", "[".repeat(60), "]".repeat(60))).0.is_some());
}

/// A file of the kind that is written for Soketi, with everything that is understood.
const SAMPLE: &str = "// soketi.config.js\nmodule.exports = {\n  appManager: { driver: \"array\", apps: [{ id: process.env.PUSHER_APP_ID || 'a',\n\
    secret: `s`, 'max': -1.5e3 * 2, }] },\n  debug: false, /* c */ \"x\\u0041\": parseInt(process.env['PORT'], 10) ?? null,\n};\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_ends_with_settings_or_a_line(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..6_usize, "[a{}\\[\\](),:;'\"`\\\\/*|?$.0-9xeu\n é]{0,4}"), 0..8),
    ) {
        let mut letters: Vec<char> = SAMPLE.chars().collect();
        for (at, length, text) in edits {
            let at = at.index(letters.len() + 1);
            letters.splice(at..(at + length).min(letters.len()), text.chars());
        }
        let file: String = letters.into_iter().collect();
        if let Err(fault) = read_text(&file) {
            let line: usize = fault.split(':').nth(1).unwrap().parse().unwrap();
            prop_assert!(line >= 1 && line <= file.matches('\n').count() + 1, "{}", fault);
        }
    }

    #[test]
    fn what_is_json_means_what_it_means_as_json(text in "[a-z\"\\\\{}\\[\\]:, 0-9.truefalsn-]{0,24}") {
        let file = format!("{{\"a\": {text}}}");
        let Ok(serde_json::Value::Object(json)) = serde_json::from_str(&file) else { return Ok(()) };
        // `serde_json` reads some numbers, such as 3e68, as one of their neighbours; so the digits are compared.
        let digits: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&file).unwrap();
        let Ok(settings) = read_text(&file) else {
            // Names that are given twice are refused here.
            return Ok(());
        };
        let number = |text: &str| text.parse::<f64>().ok();
        let ours = crate::config::tree::text(&settings["a"]);
        match &json["a"] {
            serde_json::Value::Null => prop_assert_eq!(ours, None),
            serde_json::Value::Number(_) => prop_assert_eq!(number(&ours.unwrap()), number(digits["a"].get())),
            serde_json::Value::String(json) if json.trim() != "null" => prop_assert_eq!(ours.as_ref(), Some(json)),
            serde_json::Value::Bool(json) => prop_assert_eq!(ours, Some(json.to_string())),
            _ => (),
        }
    }
}

#[test]
fn each_beginning_of_a_file_ends_with_a_line() {
    assert!(read_text(SAMPLE).is_ok());
    for (end, _) in SAMPLE.char_indices().skip(1) {
        let _ = read_text(&SAMPLE[..end]).map_err(|fault| assert!(fault.starts_with("soketi.config.js:"), "{fault}"));
    }
}
