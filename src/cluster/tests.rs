//! A client of a server that answers like an API server, for tests.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::{Client, Config};
use serde_json::{Value, json};

/// A client of a server with these pages, on a port of the loopback interface.
pub(super) async fn client(pages: Router) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, pages).await });
    Client::try_from(Config::new(uri.parse().unwrap())).unwrap()
}

/// An object as an answer.
pub(super) fn object(object: &Value) -> Response {
    object.to_string().into_response()
}

/// The answer of an API server that refuses a request.
pub(super) fn refused(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": reason, "message": message,
        "code": code.as_u16(),
    });
    (code, status.to_string()).into_response()
}
