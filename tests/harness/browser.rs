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

/// Posts fields to a path of ours, as a form of our own page does.
pub async fn post_fields(client: &Client, path: &str, fields: &[(&str, &str)]) -> Response {
    let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    client.call(http::Method::POST, path, FORM, body.join("&").into()).await
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
        Browser::after(stranger, &answer)
    }

    /// Logs in with a local user's name and password.
    ///
    /// # Panics
    /// When the gateway does not let it in.
    pub async fn with_password(stranger: &Client, user: &str, password: &str) -> Browser {
        let answer = post_fields(stranger, "/gate/login", &[("user", user), ("password", password)]).await.expect(303);
        Browser::after(stranger, &answer)
    }

    /// The browser that got an answer with a session's cookie.
    ///
    /// # Panics
    /// When there is none.
    pub fn after(stranger: &Client, answer: &Response) -> Browser {
        let set = answer.header("set-cookie").expect("a cookie");
        Browser { stranger: stranger.stranger(), cookie: set.split(';').next().unwrap().to_owned() }
    }

    /// One that has this cookie already, `NAME=VALUE`.
    pub fn with_cookie(stranger: &Client, cookie: String) -> Browser {
        Browser { stranger: stranger.stranger(), cookie }
    }

    /// Presses a button of a page of ours.
    pub async fn press(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        post_fields(&self.sending(&[]), path, fields).await
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
