//! YAML, with the line of every value.
//! `file` calls it.

use std::collections::HashMap;
use std::str::Chars;

use config::{Map, Value, ValueKind};
use yaml_rust2::parser::Parser;
use yaml_rust2::scanner::TScalarStyle;
use yaml_rust2::{Event, ScanError, Yaml};

use crate::config::origin::Origin;

/// Deeper than any configuration, and far from the end of the stack.
const DEPTH_MAX: usize = 64;
/// More values than any configuration repeats by aliases: nine lines may stand for a thousand million.
const ALIASED_MAX: usize = 100_000;

/// The settings of `text`. Messages quote nothing of it, since that may be a secret.
pub(in crate::config) fn read(name: &str, text: &str) -> Result<Map<String, Value>, String> {
    let parser = Parser::new_from_str(text);
    let mut file = File { name, parser, anchors: HashMap::new(), depth: 0, values: 0, aliased: 0, documents: 0 };
    match file.document()?.map(|value| value.kind) {
        Some(ValueKind::Table(settings)) => Ok(settings),
        None | Some(ValueKind::Nil) => Ok(Map::new()),
        Some(_) => Err(format!("{name}:1: settings must be names with values, such as port: 6001")),
    }
}

struct File<'a> {
    name: &'a str,
    parser: Parser<Chars<'a>>,
    /// Each with the number of its values.
    anchors: HashMap<usize, (Value, usize)>,
    depth: usize,
    /// Those of aliases included.
    values: usize,
    aliased: usize,
    documents: usize,
}

impl File<'_> {
    fn next(&mut self) -> Result<(Event, Origin), String> {
        let place = |line: usize| Origin::line(self.name, line);
        match self.parser.next_token() {
            Ok((event, mark)) => Ok((event, place(mark.line()))),
            Err(error) => Err(format!("{}: {}", place(ScanError::marker(&error).line()), error.info())),
        }
    }

    fn document(&mut self) -> Result<Option<Value>, String> {
        let mut root = None;
        loop {
            let (event, origin) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart if self.documents > 0 => {
                    return Err(format!("{origin}: a second document begins; keep one"));
                }
                Event::DocumentStart => self.documents += 1,
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => (),
                event => root = Some(self.value(event, &origin)?),
            }
        }
    }

    fn value(&mut self, event: Event, origin: &Origin) -> Result<Value, String> {
        if let Event::Alias(anchor) = event {
            let found = self.anchors.get(&anchor);
            let (value, count) = found.ok_or_else(|| format!("{origin}: this alias has no anchor before it"))?;
            self.values += count;
            self.aliased += count;
            if self.aliased > ALIASED_MAX {
                return Err(format!("{origin}: aliases stand for more than {ALIASED_MAX} values"));
            }
            return Ok(value.clone());
        }
        if self.depth == DEPTH_MAX {
            return Err(format!("{origin}: more than {DEPTH_MAX} levels are open"));
        }
        let before = self.values;
        self.values += 1;
        self.depth += 1;
        let (kind, anchor) = match event {
            Event::Scalar(text, TScalarStyle::Plain, anchor, None) => (plain(text), anchor),
            Event::Scalar(text, _, anchor, _) => (ValueKind::String(text), anchor),
            Event::SequenceStart(anchor, _) => (ValueKind::Array(self.sequence()?), anchor),
            Event::MappingStart(anchor, _) => (ValueKind::Table(self.mapping()?), anchor),
            _ => return Err(format!("{origin}: a value must stand here")),
        };
        self.depth -= 1;
        let value = origin.value(kind);
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before));
        }
        Ok(value)
    }

    fn sequence(&mut self) -> Result<Vec<Value>, String> {
        let mut items = Vec::new();
        loop {
            let (event, origin) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.value(event, &origin)?);
        }
    }

    fn mapping(&mut self) -> Result<Map<String, Value>, String> {
        let mut settings = Map::new();
        loop {
            let (event, origin) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(settings),
                Event::Scalar(key, ..) => key,
                _ => return Err(format!("{origin}: a name must stand here")),
            };
            let (event, place) = self.next()?;
            let value = self.value(event, &place)?;
            if settings.insert(key.clone(), value).is_some() {
                return Err(format!("{origin}: {key:?} is given twice; keep one"));
            }
        }
    }
}

/// A value without quotes. A number in an unusual form, such as 007, may be an id or a secret and stays text.
fn plain(text: String) -> ValueKind {
    match Yaml::from_str(&text) {
        Yaml::Integer(number) if number.to_string() == text => ValueKind::I64(number),
        Yaml::Real(number) => number.parse().map_or(ValueKind::String(text), ValueKind::Float),
        Yaml::Boolean(truth) => ValueKind::Boolean(truth),
        Yaml::Null | Yaml::BadValue => ValueKind::Nil,
        _ => ValueKind::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_do_not_stand_for_endless_values() {
        let mut text = "l0: &l0 [1]\n".to_owned();
        for level in 1..=9 {
            let below = format!("*l{},", level - 1).repeat(9);
            text += &format!("l{level}: &l{level} [{below}]\n");
        }
        assert_eq!(read("f", &text).unwrap_err(), "f:6: aliases stand for more than 100000 values");
        let four: String = text.lines().take(4).collect::<Vec<_>>().join("\n");
        assert_eq!(read("f", &four).unwrap().len(), 4);
        let plain = format!("a: [{}]\nb: &b [1]\nc: *b\n", "1,".repeat(200_000));
        assert_eq!(read("f", &plain).unwrap().len(), 3, "only what aliases repeat is bounded");
    }
}
