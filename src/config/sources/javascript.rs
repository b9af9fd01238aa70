//! Files in JSON or, like `soketi.config.js`, with one JavaScript value in them: read as data, never run.
//!
//! Understood beside JSON: comments, commas at the end, single quotes, names without quotes, templates
//! without `${}`, products of numbers, `process.env.NAME`, `||`, `??`, `parseInt`, `parseFloat` and `Number`.

mod conversions;

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use crate::config::origin::Origin;

use conversions::{is_truthy, number, whole, whole_or_fraction};

/// Deeper than any configuration, and far from the end of the stack.
const DEPTH_MAX: usize = 64;

const CODE: &str = "this is code, which gema does not run; write the value itself, or process.env.NAME || \"default\"";

/// The settings of `text`, each with `name` and its line as origin. `variables` are what `process.env` has.
pub(in crate::config) fn read(
    name: &str,
    text: &str,
    variables: &BTreeMap<String, String>,
) -> Result<Map<String, Value>, String> {
    let mut reader = Reader { name, text, at: 0, line: 1, depth: 0, variables };
    let (line, value) = reader.document().map_err(|what| format!("{name}:{}: {what}", reader.line))?;
    match value.kind {
        ValueKind::Table(settings) => Ok(settings),
        _ => Err(format!("{name}:{line}: settings must stand in braces, such as {{ \"port\": 6001 }}")),
    }
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    at: usize,
    line: usize,
    depth: usize,
    variables: &'a BTreeMap<String, String>,
}

type Read<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn document(&mut self) -> Read<(usize, Value)> {
        self.blanks()?;
        for directive in ["\"use strict\"", "'use strict'"] {
            if self.take(directive) {
                self.after(";")?;
                self.blanks()?;
            }
        }
        let rest = self.rest();
        if rest.starts_with(|first: char| first.is_ascii_alphabetic()) {
            let begins = match self.identifier() {
                "module" => self.after(".")? && self.next_identifier()? == "exports" && self.after("=")?,
                "export" => self.next_identifier()? == "default",
                _ => false,
            };
            if !begins {
                return Err(format!("{CODE}; a file begins with module.exports = {{ or export default {{"));
            }
        }
        self.blanks()?;
        let line = self.line;
        let value = self.value()?;
        self.after(";")?;
        self.blanks()?;
        if self.rest().is_empty() { Ok((line, value)) } else { Err("the file must end behind its settings".to_owned()) }
    }

    /// Operands with `||` and `??` between them, from left to right.
    fn value(&mut self) -> Read<Value> {
        if self.depth == DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} brackets are open"));
        }
        self.depth += 1;
        let mut left = self.product()?;
        loop {
            let is_decided = if self.after("||")? {
                is_truthy(&left.kind)
            } else if self.after("??")? {
                left.kind != ValueKind::Nil
            } else {
                break;
            };
            let right = self.product()?;
            if !is_decided {
                left = right;
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    fn product(&mut self) -> Read<Value> {
        let mut left = self.operand()?;
        while self.after("*")? {
            let right = self.operand()?;
            left.kind = match (&left.kind, &right.kind) {
                (ValueKind::I64(a), ValueKind::I64(b)) => {
                    ValueKind::I64(a.checked_mul(*b).ok_or("this product is too large")?)
                }
                (ValueKind::I64(_) | ValueKind::Float(_), ValueKind::I64(_) | ValueKind::Float(_)) => {
                    ValueKind::Float(number(&left.kind) * number(&right.kind))
                }
                _ => return Err("only numbers can be multiplied".to_owned()),
            };
        }
        Ok(left)
    }

    fn operand(&mut self) -> Read<Value> {
        self.blanks()?;
        let origin = Origin::line(self.name, self.line);
        let kind = match self.rest().chars().next() {
            Some('{') => ValueKind::Table(self.object()?),
            Some('[') => ValueKind::Array(self.array()?),
            Some('"' | '\'' | '`') => ValueKind::String(self.string()?),
            Some('(') => {
                self.bump();
                let value = self.value()?;
                self.expect(")")?;
                return Ok(value);
            }
            Some('-' | '+' | '.' | '0'..='9') => self.number()?,
            Some(letter) if is_name(letter) => return self.named(&origin),
            Some(_) => return Err(CODE.to_owned()),
            None => return Err("the file ends where a value must stand".to_owned()),
        };
        Ok(origin.value(kind))
    }

    /// A value that begins with a word.
    fn named(&mut self, origin: &Origin) -> Read<Value> {
        let kind = match self.identifier() {
            "true" => ValueKind::Boolean(true),
            "false" => ValueKind::Boolean(false),
            "null" | "undefined" => ValueKind::Nil,
            "process" => return self.variable(),
            "parseInt" => return self.call(|value| whole(&value.kind)),
            "parseFloat" | "Number" => return self.call(|value| ValueKind::Float(number(&value.kind))),
            _ => return Err(format!("text must stand in quotes, and {CODE}")),
        };
        Ok(origin.value(kind))
    }

    /// `process.env.NAME`, or `process.env["NAME"]`.
    fn variable(&mut self) -> Read<Value> {
        let (file, line) = (self.name.to_owned(), self.line);
        let of_environment = self.after(".")? && self.next_identifier()? == "env";
        let name = if of_environment && self.after(".")? {
            self.next_identifier()?.to_owned()
        } else if of_environment && self.after("[")? {
            self.blanks()?;
            let name = if self.rest().starts_with(['"', '\'']) { self.string()? } else { String::new() };
            self.expect("]")?;
            name
        } else {
            String::new()
        };
        if name.is_empty() {
            return Err(CODE.to_owned());
        }
        let kind = self.variables.get(&name).map_or(ValueKind::Nil, |text| ValueKind::String(text.clone()));
        Ok(Origin::VariableInLine { file, line, name }.value(kind))
    }

    /// The argument of a call, made a number.
    fn call(&mut self, convert: fn(&Value) -> ValueKind) -> Read<Value> {
        self.expect("(")?;
        let mut value = self.value()?;
        // The base, which is 10.
        if self.after(",")? && self.operand()?.kind != ValueKind::I64(10) {
            return Err(CODE.to_owned());
        }
        self.expect(")")?;
        value.kind = convert(&value);
        Ok(value)
    }

    fn object(&mut self) -> Read<Map<String, Value>> {
        self.bump();
        let mut settings = Map::new();
        while !self.after("}")? {
            let key = self.key()?;
            self.expect(":")?;
            let value = self.value()?;
            if settings.insert(key.clone(), value).is_some() {
                return Err(format!("{key:?} is given twice; keep one"));
            }
            self.separator('}')?;
        }
        Ok(settings)
    }

    fn key(&mut self) -> Read<String> {
        match self.rest().chars().next() {
            Some('"' | '\'') => self.string(),
            Some(letter) if is_name(letter) || letter.is_ascii_digit() => Ok(self.identifier().to_owned()),
            Some(_) => Err("a name must stand here, with or without quotes".to_owned()),
            None => Err("the file ends before a brace is closed".to_owned()),
        }
    }

    fn array(&mut self) -> Read<Vec<Value>> {
        self.bump();
        let mut values = Vec::new();
        while !self.after("]")? {
            values.push(self.value()?);
            self.separator(']')?;
        }
        Ok(values)
    }

    /// A comma, unless the bracket is closed.
    fn separator(&mut self, close: char) -> Read<()> {
        if self.after(",")? || self.rest().starts_with(close) {
            return Ok(());
        }
        Err(format!("a comma or {close} must stand here; beyond that, gema reads data and does not run code"))
    }

    fn string(&mut self) -> Read<String> {
        let Some(quote) = self.bump() else { return Ok(String::new()) };
        let mut text = String::new();
        loop {
            match self.bump() {
                Some(letter) if letter == quote => return Ok(text),
                Some('$') if quote == '`' && self.rest().starts_with('{') => return Err(CODE.to_owned()),
                Some('\\') => text.extend(self.escape()?),
                None | Some('\n') if quote != '`' => return Err("this text is not closed".to_owned()),
                None => return Err("this text is not closed".to_owned()),
                Some(letter) => text.push(letter),
            }
        }
    }

    /// The character for the letters behind a backslash; none for the end of a line.
    fn escape(&mut self) -> Read<Option<char>> {
        Ok(Some(match self.bump() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('v') => '\u{b}',
            Some('0') if !self.rest().starts_with(|next: char| next.is_ascii_digit()) => '\0',
            Some('x') => self.unicode(2)?,
            Some('u') => self.unicode(4)?,
            Some('\n') => return Ok(None),
            Some(letter) if !letter.is_ascii_alphanumeric() => letter,
            _ => return Err(ESCAPE.to_owned()),
        }))
    }

    /// A letter by its number; above U+FFFF it takes two.
    fn unicode(&mut self, digits: usize) -> Read<char> {
        if digits == 4 && self.take("{") {
            let end = self.rest().find('}').ok_or(ESCAPE)?;
            let letter = self.hexadecimal(end).and_then(char::from_u32).ok_or(ESCAPE)?;
            self.bump();
            return Ok(letter);
        }
        let first = self.hexadecimal(digits).ok_or(ESCAPE)?;
        let letter = match char::from_u32(first) {
            None if self.take("\\u") => {
                let second = self.hexadecimal(4).ok_or(ESCAPE)?;
                let units = [first, second].map(|unit| u16::try_from(unit).unwrap_or_default());
                char::decode_utf16(units).next().and_then(Result::ok)
            }
            letter => letter,
        };
        letter.ok_or_else(|| ESCAPE.to_owned())
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<u32> {
        let digits =
            self.rest().get(..digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        self.at += digits.len();
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Read<ValueKind> {
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        let rest = self.rest();
        let mut end = 0;
        for (at, letter) in rest.char_indices() {
            let of_exponent =
                matches!(letter, '+' | '-') && rest[..at].ends_with(['e', 'E']) && !rest.starts_with("0x");
            if !letter.is_ascii_alphanumeric() && letter != '.' && letter != '_' && !of_exponent {
                break;
            }
            end = at + 1;
        }
        self.at += end;
        let sign = if negative { "-" } else { "" };
        let digits = format!("{sign}{}", rest[..end].replace('_', ""));
        let bare = digits.trim_start_matches('-');
        if bare.len() > 1 && bare.starts_with('0') && bare.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err("a number that begins with 0 must stand in quotes".to_owned());
        }
        let parsed = match bare.strip_prefix("0x") {
            Some(hexadecimal) => i64::from_str_radix(&format!("{sign}{hexadecimal}"), 16).ok().map(ValueKind::I64),
            None => whole_or_fraction(&digits),
        };
        parsed.ok_or_else(|| "this is not a number".to_owned())
    }

    /// A name, possibly empty.
    fn identifier(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|letter: char| !is_name(letter) && !letter.is_ascii_digit()).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn next_identifier(&mut self) -> Read<&'a str> {
        self.blanks()?;
        Ok(self.identifier())
    }

    /// Whether `token` comes next, behind blanks; then it is gone.
    fn after(&mut self, token: &str) -> Read<bool> {
        self.blanks()?;
        Ok(self.take(token))
    }

    fn expect(&mut self, token: &str) -> Read<()> {
        if self.after(token)? { Ok(()) } else { Err(format!("{token} must stand here, or {CODE}")) }
    }

    fn take(&mut self, token: &str) -> bool {
        let comes = self.rest().starts_with(token);
        if comes {
            self.at += token.len();
        }
        comes
    }

    /// Skips white space and comments.
    fn blanks(&mut self) -> Read<()> {
        loop {
            let rest = self.rest();
            if rest.starts_with(char::is_whitespace) {
                self.bump();
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                let end = rest.find("*/").ok_or("this comment is not closed")? + 2;
                self.line += rest[..end].matches('\n').count();
                self.at += end;
            } else {
                return Ok(());
            }
        }
    }

    fn bump(&mut self) -> Option<char> {
        let letter = self.rest().chars().next()?;
        self.at += letter.len_utf8();
        self.line += usize::from(letter == '\n');
        Some(letter)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
}

const ESCAPE: &str = "the letters behind the backslash mean nothing; for a backslash itself write two";

fn is_name(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_' || letter == '$'
}

#[cfg(test)]
#[path = "javascript_tests.rs"]
mod tests;
