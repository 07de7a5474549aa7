use super::*;

/// A head with these lines after the request line and Host.
fn with(lines: &str) -> Result<(), HeadError> {
    whole(&format!("POST /prompt HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
}

fn whole(head: &str) -> Result<(), HeadError> {
    scan(head.as_bytes()).map(|_| ())
}

fn first_line(line: &str) -> Result<(), HeadError> {
    whole(&format!("{line}\r\nHost: a\r\n\r\n"))
}

#[test]
fn an_ordinary_head_passes_with_its_parts() {
    let head = scan(b"GET /api/queue?x=1 HTTP/1.1\r\nHost: gate.example:8443\r\nCookie: a=b\r\n\r\n").unwrap();
    assert_eq!((head.method, head.target, head.host), ("GET", "/api/queue?x=1", Some("gate.example:8443")));
}

#[test]
fn bypass_11_length_and_encoding_do_not_stand_together() {
    assert_eq!(with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), Err(HeadError::LengthAndEncoding));
    assert_eq!(with("Content-Length: 3\r\n"), Ok(()));
    assert_eq!(with("Transfer-Encoding: chunked\r\n"), Ok(()));
}

#[test]
fn bypass_11_several_lengths_are_refused_even_when_equal() {
    assert_eq!(with("Content-Length: 3\r\ncontent-length: 3\r\n"), Err(HeadError::LengthRepeated));
    assert_eq!(with("Content-Length: 3\r\nContent-Length: 4\r\n"), Err(HeadError::LengthRepeated));
    assert_eq!(with("Content-Length: 3, 3\r\n"), Err(HeadError::LengthRepeated));
}

#[test]
fn length_is_digits_only() {
    for bad in ["+3", "-3", "0x3", "3 3", "", "7_0", "٣"] {
        assert_eq!(with(&format!("Content-Length: {bad}\r\n")), Err(HeadError::LengthMalformed), "{bad}");
    }
    assert_eq!(with(&format!("Content-Length: {}\r\n", "9".repeat(18))), Ok(()));
    assert_eq!(with(&format!("Content-Length: {}\r\n", "9".repeat(19))), Err(HeadError::LengthMalformed));
}

#[test]
fn bypass_11_encoding_is_exactly_chunked() {
    for bad in
        ["xchunked", "gzip, chunked", "chunked, chunked", "chunked, identity", "identity", "Chunked", "", "chunked;q=1"]
    {
        assert_eq!(with(&format!("Transfer-Encoding: {bad}\r\n")), Err(HeadError::Encoding), "{bad}");
    }
    assert_eq!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Err(HeadError::Encoding));
    assert_eq!(with("Transfer-Encoding:   chunked \r\n"), Ok(()));
}

#[test]
fn http_1_0_has_no_transfer_encoding_and_needs_no_host() {
    assert_eq!(whole("GET / HTTP/1.0\r\n\r\n"), Ok(()));
    assert_eq!(whole("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(HeadError::Encoding));
    assert_eq!(whole("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::HostMissing));
}

#[test]
fn bypass_11_bare_line_ends_are_refused() {
    assert_eq!(whole("GET / HTTP/1.1\nHost: a\r\n\r\n"), Err(HeadError::LineEnd));
    assert_eq!(with("A: b\nC: d\r\n"), Err(HeadError::LineEnd));
    assert_eq!(with("A: b\rC: d\r\n"), Err(HeadError::LineEnd));
    assert_eq!(with("A: b\r\r\n"), Err(HeadError::LineEnd));
    assert_eq!(with("A: b\r\nC: d\r\n"), Ok(()));
}

#[test]
fn folded_headers_are_refused() {
    assert_eq!(with("A: b\r\n c\r\n"), Err(HeadError::HeaderFolded));
    assert_eq!(with("A: b\r\n\tc\r\n"), Err(HeadError::HeaderFolded));
    assert_eq!(with("A: b \r\n"), Ok(()));
}

#[test]
fn bypass_12_host_stands_once() {
    assert_eq!(with("Host: a\r\n"), Err(HeadError::HostMalformed));
    assert_eq!(with("X-Host: a\r\n"), Ok(()));
}

#[test]
fn host_is_a_name_or_an_address_with_an_optional_port() {
    let host = |host: &str| whole(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for good in
        ["a", "a.b-c.d", "my_box:8188", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:65535", "xn--bcher-kva.example"]
    {
        assert_eq!(host(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a:",
        "a:0",
        "a:65536",
        "a:+1",
        "[::1",
        "::1",
        "[::1]x",
        "[a]",
        "1.2.3",
        "1.2.3.256",
        "-a",
        "a..b",
        "é",
        "a,b",
        "a?",
        "a\\b",
    ] {
        assert_eq!(host(bad), Err(HeadError::HostMalformed), "{bad}");
    }
    assert_eq!(host(&"a".repeat(63)), Ok(()));
    assert_eq!(host(&"a".repeat(64)), Err(HeadError::HostMalformed));
}

#[test]
fn bypass_12_targets_other_than_a_path_are_refused() {
    for bad in ["http://evil/prompt", "https://a/", "a:443", "*", "prompt", "/a#b", "/\u{7f}", "/a\tb", "/é"] {
        assert_eq!(first_line(&format!("POST {bad} HTTP/1.1")), Err(HeadError::Target), "{bad}");
    }
    assert_eq!(first_line("POST /http://evil/ HTTP/1.1"), Ok(()));
    assert_eq!(first_line("OPTIONS * HTTP/1.1"), Err(HeadError::Target));
    assert_eq!(first_line("OPTIONS / HTTP/1.1"), Ok(()));
}

#[test]
fn only_methods_of_the_list_pass() {
    for good in METHODS {
        assert_eq!(first_line(&format!("{good} / HTTP/1.1")), Ok(()), "{good}");
    }
    for bad in ["get", "CONNECT", "TRACE", "PROPFIND", "GETX"] {
        assert_eq!(first_line(&format!("{bad} / HTTP/1.1")), Err(HeadError::Method), "{bad}");
    }
}

#[test]
fn request_line_has_three_parts_and_a_known_version() {
    for bad in [
        "GET /",
        "GET",
        "",
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET / x HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1 ",
    ] {
        assert_eq!(first_line(bad), Err(HeadError::RequestLine), "{bad}");
    }
    for bad in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/2", "HTTP/1.10"] {
        assert_eq!(first_line(&format!("GET / {bad}")), Err(HeadError::Version), "{bad}");
    }
}

#[test]
fn nul_is_refused_everywhere() {
    assert_eq!(with("A: b\0c\r\n"), Err(HeadError::Nul));
    assert_eq!(first_line("GET /\0 HTTP/1.1"), Err(HeadError::Nul));
}

#[test]
fn header_names_are_tokens_right_before_the_colon() {
    for bad in ["A : b", "A b: c", ": b", "A", "A(: b", "Ä: b"] {
        assert_eq!(with(&format!("{bad}\r\n")), Err(HeadError::HeaderName), "{bad}");
    }
    assert_eq!(with("X_A-1.b~: c\r\n"), Ok(()));
}

#[test]
fn header_values_have_no_control_characters_but_tab() {
    assert_eq!(with("A: b\x01\r\n"), Err(HeadError::HeaderValue));
    assert_eq!(with("A: b\x7f\r\n"), Err(HeadError::HeaderValue));
    assert_eq!(with("A: b\tc\r\n"), Ok(()));
}

#[test]
fn one_hundred_twenty_eight_headers_pass_and_one_more_does_not() {
    let lines = |n: usize| "A: b\r\n".repeat(n);
    assert_eq!(with(&lines(HEADERS_MAX - 1)), Ok(()));
    assert_eq!(with(&lines(HEADERS_MAX)), Err(HeadError::TooManyHeaders));
}

#[test]
fn deciding_fields_stand_once_and_others_as_often_as_they_like() {
    for field in SINGLE_FIELDS {
        assert_eq!(with(&format!("{field}: a\r\n")), Ok(()), "{field}");
        assert_eq!(
            with(&format!("{field}: a\r\n{}: a\r\n", field.to_uppercase())),
            Err(HeadError::HeaderRepeated),
            "{field}"
        );
    }
    assert_eq!(with("Cookie: a\r\nCookie: b\r\n"), Ok(()));
}

#[test]
fn upgrade_is_to_websocket_and_expect_is_to_continue() {
    assert_eq!(with("Upgrade: WebSocket\r\nConnection: upgrade\r\n"), Ok(()));
    assert_eq!(with("Upgrade: h2c\r\n"), Err(HeadError::Upgrade));
    assert_eq!(with("Upgrade: websocket, h2c\r\n"), Err(HeadError::Upgrade));
    assert_eq!(with("Upgrade: websocket\r\nUpgrade: websocket\r\n"), Err(HeadError::Upgrade));
    assert_eq!(whole("GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n"), Err(HeadError::Upgrade));
    assert_eq!(with("Expect: 100-Continue\r\n"), Ok(()));
    assert_eq!(with("Expect: 200-ok\r\n"), Err(HeadError::Expectation));
}

fn end(head: &str) -> Result<Option<usize>, HeadError> {
    HeadEnd::default().found(head.as_bytes(), HEAD_BYTES_MAX)
}

#[test]
fn the_end_is_found_however_the_bytes_arrive() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
    let mut finder = HeadEnd::default();
    for so_far in 0..head.len() - 4 {
        assert_eq!(finder.found(&head[..so_far], HEAD_BYTES_MAX), Ok(None), "{so_far}");
    }
    assert_eq!(finder.found(head, HEAD_BYTES_MAX), Ok(Some(head.len() - 4)));
    assert_eq!(end(std::str::from_utf8(head).unwrap()), Ok(Some(head.len() - 4)));
}

#[test]
fn a_bare_line_end_is_seen_before_the_head_is_complete() {
    assert_eq!(end("GET / HTTP/1.1\n"), Err(HeadError::LineEnd));
    assert_eq!(end("GET / HTTP/1.1\rX"), Err(HeadError::LineEnd));
    assert_eq!(end("GET / HTTP/1.1\r\r"), Err(HeadError::LineEnd));
    assert_eq!(end("GET /\0"), Err(HeadError::Nul));
    assert_eq!(end("GET / HTTP/1.1\r"), Ok(None));
}

#[test]
fn a_head_of_exactly_the_limit_ends_and_one_byte_more_does_not() {
    let head = |n: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(n - 23));
    assert_eq!(head(100).len(), 100);
    assert_eq!(HeadEnd::default().found(head(100).as_bytes(), 100), Ok(Some(100)));
    assert_eq!(HeadEnd::default().found(head(101).as_bytes(), 100), Err(HeadError::TooLarge));
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    for (name, value) in headers {
        head.append_header((*name).to_owned(), *value).unwrap();
    }
    head
}

/// As the h2 crate builds it: scheme and authority in the URI.
fn h2(uri: &str, headers: &[(&str, &str)]) -> Result<(), HeadError> {
    let mut head = request("GET", "/", headers);
    head.set_uri(uri.parse().unwrap());
    head.set_version(http::Version::HTTP_2);
    check_request(&head, true)
}

#[test]
fn h2_host_beside_an_authority_says_the_same() {
    assert_eq!(h2("https://a:8443/queue", &[]), Ok(()));
    assert_eq!(h2("https://a:8443/queue", &[("host", "A:8443")]), Ok(()));
    assert_eq!(h2("https://a:8443/queue", &[("host", "b")]), Err(HeadError::HostDiffers));
    assert_eq!(h2("https://a/queue", &[("host", "a"), ("host", "a")]), Err(HeadError::HostMalformed));
    assert_eq!(h2("/queue", &[("host", "a")]), Ok(()));
    assert_eq!(h2("/queue", &[]), Err(HeadError::HostMissing));
    assert_eq!(h2("https://u@a/queue", &[]), Err(HeadError::HostMalformed));
}

#[test]
fn h2_has_no_fields_of_http_1_connections() {
    for field in CONNECTION_FIELDS {
        assert_eq!(h2("https://a/", &[(field, "x")]), Err(HeadError::ConnectionSpecific), "{field}");
    }
    assert_eq!(h2("https://a/", &[("te", "gzip")]), Err(HeadError::ConnectionSpecific));
    assert_eq!(h2("https://a/", &[("te", "trailers")]), Ok(()));
}

#[test]
fn h2_length_stands_once_and_is_a_number() {
    assert_eq!(h2("https://a/", &[("content-length", "3")]), Ok(()));
    assert_eq!(h2("https://a/", &[("content-length", "3"), ("content-length", "3")]), Err(HeadError::LengthRepeated));
    assert_eq!(h2("https://a/", &[("content-length", "+3")]), Err(HeadError::LengthMalformed));
}

#[test]
fn h2_and_h1_share_methods_targets_counts_and_sizes() {
    for is_h2 in [true, false] {
        let check = |method: &str, headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a")];
            all.extend_from_slice(headers);
            check_request(&request(method, "/queue", &all), is_h2)
        };
        assert_eq!(check("GET", &[]), Ok(()));
        assert_eq!(check("TRACE", &[]), Err(HeadError::Method));
        assert_eq!(check("GET", &[("authorization", "a"), ("authorization", "b")]), Err(HeadError::HeaderRepeated));
        assert_eq!(check("GET", &[("a", "b"); HEADERS_MAX - 1]), Ok(()));
        assert_eq!(check("GET", &[("a", "b"); HEADERS_MAX]), Err(HeadError::TooManyHeaders));
        let big = "x".repeat(HEAD_BYTES_MAX / 2);
        assert_eq!(check("GET", &[("a", &big)]), Ok(()));
        assert_eq!(check("GET", &[("a", &big), ("b", &big)]), Err(HeadError::TooLarge));
    }
}

#[test]
fn h1_absolute_form_is_refused_behind_the_front_too() {
    let mut head = request("GET", "/queue", &[("host", "a")]);
    assert_eq!(check_request(&head, false), Ok(()));
    head.set_uri("http://a/queue".parse().unwrap());
    assert_eq!(check_request(&head, false), Err(HeadError::Target));
}
