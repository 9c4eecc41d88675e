//! Lines on the status socket, from a client or from a daemon, as anybody could send them.

use std::sync::OnceLock;

use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};

use super::{Method, Query, Reply, VERSION, client, server};
use crate::status::Snapshot;

/// Reads a line as a request, and as a reply.
pub fn read(line: &[u8]) {
    request(line);
    // A daemon of another version may say anything. What is understood can be shown.
    if let Ok(snapshot) = client::read(line) {
        crate::cli::fuzz::show(snapshot);
    }
}

/// Every request has exactly one answer, on one line.
fn request(line: &[u8]) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
    let reply = runtime.block_on(async {
        let (sender, mut queries) = mpsc::channel::<Query>(1);
        tokio::spawn(async move {
            while let Some(query) = queries.recv().await {
                let Method::Status = query.method;
                query.answer(Snapshot::default());
            }
        });
        server::encode(&server::reply_to(line, &sender).await)
    });
    assert_eq!(reply.iter().position(|byte| *byte == b'\n'), Some(reply.len() - 1), "one line");
    let reply: Reply = serde_json::from_slice(&reply).expect("a reply can be read");
    assert_eq!(reply.v, VERSION);
    assert!(reply.ok.is_some() != reply.error.is_some());
    let known = ["bad_request", "version", "method"];
    assert!(reply.error.is_none_or(|error| known.contains(&error.code.as_str()) && !error.message.contains('\n')));
}
