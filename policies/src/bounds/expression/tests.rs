use super::super::interval::FloatInterval;
use super::*;

/// `[expression, a, b, c, result]`, as simpleeval 1.0 with the functions of `ComfyMathExpression` evaluates them; expressions and values were drawn by lot.
const CASES: &str = include_str!("cases.json");

fn number(value: &serde_json::Value) -> Number {
    match value.as_i64() {
        Some(whole) => Number::int(Interval::exactly(i128::from(whole))),
        None => Number::float(FloatInterval::exactly(value.as_f64().unwrap())),
    }
}

fn comfy(text: &str, a: Number) -> Result<Number, ExpressionError> {
    evaluate(text, Dialect::Comfy, &[("a".to_owned(), a)])
}

fn of(text: &str) -> Result<Number, ExpressionError> {
    comfy(text, Number::int(Interval::exactly(3)))
}

fn int(value: i128) -> Number {
    Number::int(Interval::exactly(value))
}

#[test]
fn every_result_of_the_real_evaluator_lies_within_the_bounds() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() >= 500);
    let mut exact = 0;
    for case in &cases {
        let text = case[0].as_str().unwrap();
        let variables: Vec<(String, Number)> =
            ["a", "b", "c"].into_iter().zip(1..).map(|(name, at)| (name.to_owned(), number(&case[at]))).collect();
        let found = evaluate(text, Dialect::Comfy, &variables).unwrap_or_else(|error| panic!("{text}: {error}"));
        let result = case[4].as_f64().unwrap();
        match (found.as_float(), case[4].as_i64()) {
            (Part::Within(all), _) => {
                assert!(all.lo <= result && result <= all.hi, "{case} in {found:?}");
                exact += usize::from(all.hi - all.lo <= 1e-9 * result.abs().max(1.0));
            }
            (Part::Any, _) => {}
            (Part::Never, _) => panic!("{case}: {found:?}"),
        }
        // Whether it is whole decides what becomes of it later.
        let possible = if case[4].is_i64() { found.int != Part::Never } else { found.float != Part::Never };
        assert!(possible, "{case} in {found:?}");
    }
    assert!(exact * 100 >= cases.len() * 75, "{exact} of {} are exact", cases.len());
}

#[test]
fn intervals_go_through_the_expressions_of_common_workflows() {
    let a = Number::int(Interval { lo: 512, hi: 1280 });
    assert_eq!(comfy("a/2", a).unwrap().float, Part::Within(FloatInterval { lo: 256.0, hi: 640.0 }));
    let cells = comfy("max(4, (int(a) // 16) * 16)", a).unwrap();
    assert_eq!(cells, Number::int(Interval { lo: 512, hi: 1280 }));
    let fps = Number::float(FloatInterval { lo: 1.0, hi: 24.0 });
    let frames = comfy("floor(a * 5) + 1", fps).unwrap();
    assert_eq!(frames, Number::int(Interval { lo: 6, hi: 121 }));
}

#[test]
fn ranks_are_pythons() {
    for (text, value) in [
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("7 - 2 - 1", 4),
        ("1 + 2 * 3", 7),
        ("-7 // 2", -4),
        ("(1 + 2) * 3", 9),
        ("1 if 0 else 2 if 0 else 3", 3),
        ("not 0 + 1", 0),
        ("1 or 2 and 0", 1),
        ("2 * -3", -6),
        ("min(3, max(1, 2))", 2),
        ("round(2.5)", 2),
        ("int(-2.5)", -2),
        ("sum(values) + a", 6),
    ] {
        assert_eq!(of(text), Ok(int(value)), "{text}");
    }
}

#[test]
fn what_may_stop_a_comfyui_is_refused_and_what_is_just_small_enough_is_not() {
    for text in ["9**9**9", "2**101", "pow(3, 100)", "a**(a**(a**a))", "(2**99)**2"] {
        assert!(matches!(of(text), Err(ExpressionError::Arithmetic(ArithmeticError::TooLargePower))), "{text}");
    }
    assert_eq!(of("2**100"), Ok(int(1 << 100)));
    assert!(comfy("a**2", Number::ANY).is_err());
    assert!(comfy("a*a*a", Number::ANY).is_ok());
}

#[test]
fn what_is_no_plain_arithmetic_is_refused() {
    for text in [
        "",
        "a +",
        "(a",
        "a)",
        "a b",
        "1 << 3",
        "a.real",
        "a[0]",
        "'x'*9",
        "[1]*9",
        "0x10",
        "1_000",
        "1j",
        "010a",
        "a = 3",
        "a; a",
        "a # b",
        "a\na",
        "1 < 2 < 3",
        "f(a)",
        "__import__(a)",
        "lambda: a",
        "a if a",
        "a else a",
        "ａ",
        "values",
        "int()",
        "max(a,)",
        "abs(values)",
        "1..2",
        "**a",
        "a ** ",
        "True if",
        "eval(a)",
        "a, a",
    ] {
        assert!(of(text).is_err(), "{text} gives {:?}", of(text));
    }
    assert_eq!(of("b + 1"), Err(ExpressionError::UnknownName("b".to_owned())));
}

#[test]
fn the_simple_dialect_has_fewer_functions() {
    let variables = [("a".to_owned(), int(3))];
    assert_eq!(evaluate("round(a / 2)", Dialect::Essentials, &variables), Ok(int(2)));
    for text in ["abs(a)", "a if a else a", "True", "sqrt(a)"] {
        assert!(evaluate(text, Dialect::Essentials, &variables).is_err(), "{text}");
    }
}

#[test]
fn a_text_at_the_limits_is_read_and_one_beyond_is_not() {
    let sum = |terms: usize| vec!["1"; terms].join("+");
    assert_eq!(of(&sum(128)), Ok(int(128)));
    assert_eq!(of(&format!("{}+1", sum(128))), Err(ExpressionError::TooLong));
    let padded = |bytes: usize| format!("{:>1$}+1", "a", bytes - 2);
    assert!(of(&padded(4096)).is_ok());
    assert_eq!(of(&padded(4097)), Err(ExpressionError::TooLong));
    let deep = format!("{}a{}", "(".repeat(127), ")".repeat(127));
    assert_eq!(of(&deep), Ok(int(3)));
}
