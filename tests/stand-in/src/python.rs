//! Python's conversions and printing, as far as ComfyUI's validation shows them: `int()`, `float()`, `str()`, `bool()`,
//! `repr()` and the texts of the exceptions they raise. Checked against CPython 3.11 by hand.

use crate::json::Json;

/// Zeros of Unicode's decimal digit blocks (category Nd): Python's `int("５０")` is 50.
const DIGIT_ZEROS: [u32; 37] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

/// Python's name of the value's type, as exceptions print it.
pub fn type_name(value: &Json) -> &'static str {
    match value {
        Json::Null => "NoneType",
        Json::Bool(_) => "bool",
        Json::Int(_) => "int",
        Json::Float(_) => "float",
        Json::Str(_) => "str",
        Json::List(_) => "list",
        Json::Dict(_) => "dict",
    }
}

/// `int(value)`, or the text of the exception.
pub fn int(value: &Json) -> Result<i128, String> {
    match value {
        Json::Bool(flag) => Ok(i128::from(*flag)),
        Json::Int(number) => Ok(*number),
        Json::Float(number) if number.is_nan() => Err("cannot convert float NaN to integer".into()),
        Json::Float(number) if number.is_infinite() => Err("cannot convert float infinity to integer".into()),
        #[expect(clippy::cast_possible_truncation, reason = "truncation is what int() does; beyond i128 it saturates")]
        Json::Float(number) => Ok(number.trunc() as i128),
        Json::Str(text) => ascii_number(text)
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| format!("invalid literal for int() with base 10: {}", repr(value))),
        _ => Err(format!(
            "int() argument must be a string, a bytes-like object or a real number, not '{}'",
            type_name(value)
        )),
    }
}

/// `float(value)`, or the text of the exception.
pub fn float(value: &Json) -> Result<f64, String> {
    match value {
        Json::Str(text) => ascii_number(text)
            .filter(|digits| {
                digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) || is_float_word(digits)
            })
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| format!("could not convert string to float: {}", repr(value))),
        _ => value
            .as_number()
            .ok_or_else(|| format!("float() argument must be a string or a real number, not '{}'", type_name(value))),
    }
}

fn is_float_word(text: &str) -> bool {
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    matches!(word.as_str(), "nan" | "inf" | "infinity")
}

/// The text of a number in ASCII: outer space off, Unicode digits to ASCII, single underscores between digits removed.
fn ascii_number(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut previous = None;
    let mut characters = text.trim().chars().peekable();
    while let Some(character) = characters.next() {
        let mapped = decimal_digit(character);
        if character == '_' {
            let after = characters.peek().copied().and_then(decimal_digit);
            if previous.is_none() || after.is_none() {
                return None;
            }
            previous = None;
            continue;
        }
        out.push(mapped.unwrap_or(character));
        previous = mapped;
    }
    Some(out)
}

fn decimal_digit(character: char) -> Option<char> {
    let code = u32::from(character);
    let zero = DIGIT_ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code))?;
    char::from_digit(code - zero, 10)
}

/// `str(value)`.
pub fn str(value: &Json) -> String {
    match value {
        Json::Str(text) => text.clone(),
        _ => repr(value),
    }
}

/// `repr(value)`.
pub fn repr(value: &Json) -> String {
    match value {
        Json::Null => "None".into(),
        Json::Bool(true) => "True".into(),
        Json::Bool(false) => "False".into(),
        Json::Int(number) => number.to_string(),
        Json::Float(number) => float_repr(*number),
        Json::Str(text) => repr_str(text),
        Json::List(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Json::Dict(dict) => {
            let entries: Vec<_> = dict.iter().map(|(key, item)| format!("{}: {}", repr_str(key), repr(item))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn repr_str(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => {
                out.push('\\');
                out.push(quote);
            }
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push(quote);
    out
}

/// `repr(float)`: shortest digits that read back, with an exponent from 1e16 on and below 1e-4.
pub fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = format!("{number}");
    if text.contains('.') { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_generously_as_python_reads_them() {
        for (text, number) in [("64", 64), (" 64 ", 64), ("6_4", 64), ("６４", 64), ("٦٤", 64), ("+5", 5), ("-5", -5)]
        {
            assert_eq!(int(&Json::from(text)), Ok(number), "{text}");
        }
        assert_eq!(int(&Json::Float(64.9)), Ok(64));
        assert_eq!(int(&Json::Float(-64.9)), Ok(-64));
        assert_eq!(int(&Json::Bool(true)), Ok(1));
    }

    #[test]
    fn what_int_refuses_is_refused_with_its_words() {
        for text in ["1e1", "50.9", "0x10", "", "_1", "1_", "1__0", "nan"] {
            let refusal = int(&Json::from(text)).unwrap_err();
            assert_eq!(refusal, format!("invalid literal for int() with base 10: '{text}'"));
        }
        assert_eq!(int(&Json::Float(f64::NAN)).unwrap_err(), "cannot convert float NaN to integer");
        assert!(int(&Json::Null).unwrap_err().ends_with("not 'NoneType'"));
    }

    #[test]
    fn floats_take_words_and_exponents_but_no_hexadecimal() {
        assert_eq!(float(&Json::from("1e3")), Ok(1000.0));
        assert_eq!(float(&Json::from("1_0.5")), Ok(10.5));
        assert!(float(&Json::from("nan")).unwrap().is_nan());
        assert_eq!(float(&Json::from("-Infinity")), Ok(f64::NEG_INFINITY));
        for text in ["0x10", "", "1e", "infin", "1f"] {
            assert!(float(&Json::from(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn floats_print_as_python_prints_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (-5.0, "-5.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float_repr(number), text);
        }
    }

    #[test]
    fn strings_in_lists_print_with_pythons_quotes() {
        let list = Json::List(vec!["a".into(), "it's".into(), "\n".into(), Json::Null, Json::Bool(true)]);
        assert_eq!(repr(&list), r#"['a', "it's", '\n', None, True]"#);
    }
}
