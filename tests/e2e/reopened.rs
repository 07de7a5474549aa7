//! A saved picture opens again.

use comfygate_tests::{Gateway, reopened};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_picture_opens_again_and_is_no_key_to_what_is_anothers() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    reopened::a_saved_picture_opens_again(&gateway.client("acme"), &gateway.client("bravo")).await;
}
