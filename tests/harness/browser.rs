//! A browser that is logged in: its cookie, and the headers that a browser writes by itself.

use crate::client::{Client, Response};
use crate::gateway::Gateway;

/// Percent-encodes for a form: letters and digits stay.
fn escaped(text: &str) -> String {
    let letter = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(letter).collect()
}

/// What a form's `POST` of our own login page brings along.
const FORM: &[(&str, &str)] = &[
    ("content-type", "application/x-www-form-urlencoded"),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-mode", "navigate"),
];

/// Posts the login form, as the page's button does.
pub async fn post_login(client: &Client, path: &str, key: &str) -> Response {
    client.call(http::Method::POST, path, FORM, format!("key={}", escaped(key)).into()).await
}

/// A logged-in browser.
#[derive(Debug, Clone)]
pub struct Browser {
    stranger: Client,
    cookie: String,
}

impl Browser {
    /// Logs in with a tenant's key.
    ///
    /// # Panics
    /// When the gateway does not let it in.
    pub async fn of(gateway: &Gateway, tenant: &str) -> Browser {
        Browser::with_key(&gateway.stranger(), &gateway.key(tenant)).await
    }

    /// Logs in with a key.
    ///
    /// # Panics
    /// When the gateway does not let it in.
    pub async fn with_key(stranger: &Client, key: &str) -> Browser {
        let answer = post_login(stranger, "/gate/login", key).await.expect(303);
        let set = answer.header("set-cookie").expect("a cookie");
        Browser { stranger: stranger.stranger(), cookie: set.split(';').next().unwrap().to_owned() }
    }

    /// `NAME=VALUE`.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// The page's own requests.
    pub fn page(&self) -> Client {
        self.sending(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")])
    }

    /// Requests with the cookie and these headers, and no others of a browser.
    pub fn sending(&self, headers: &[(&str, &str)]) -> Client {
        let all: Vec<(&str, &str)> =
            [("cookie", self.cookie.as_str())].into_iter().chain(headers.iter().copied()).collect();
        self.stranger.with_headers(&all)
    }

    /// Presses the button of the logout page.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn log_out(&self) -> Response {
        self.sending(&[]).call(http::Method::POST, "/gate/logout", FORM, bytes::Bytes::new()).await.expect(303)
    }
}
