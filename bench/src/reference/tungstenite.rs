//! What a Rust user would write first: tokio, tokio-tungstenite, serde_json, a channel per connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

type Rooms = Arc<Mutex<HashMap<String, Vec<UnboundedSender<Message>>>>>;

/// Serves until it is killed, with a worker for each core that it may use.
pub(super) fn run(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("can't listen")?;
        let rooms = Rooms::default();
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::spawn(serve(stream, Arc::clone(&rooms)));
        }
    })
}

async fn serve(stream: TcpStream, rooms: Rooms) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let socket = tokio_tungstenite::accept_async(stream).await.ok()?;
    let (mut sink, mut source) = socket.split();
    let (sender, mut receiver) = unbounded_channel::<Message>();
    tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(message)) = source.next().await {
        let Message::Text(text) = message else { continue };
        let value: Value = serde_json::from_str(&text).ok()?;
        let channel = value["channel"].as_str()?.to_owned();
        match value["type"].as_str()? {
            "subscribe" => {
                let answer = json!({ "type": "subscribed", "channel": channel }).to_string();
                locked(&rooms).entry(channel).or_default().push(sender.clone());
                sender.send(Message::text(answer)).ok()?;
            }
            "publish" => {
                // As many bytes as the hub sends in a namespace without history.
                let out = json!({
                    "type": "message", "channel": channel, "payload": value["payload"],
                    "publisher": "1abcdefghijkl", "epoch": "1abcdefg", "offset": 0,
                    "timestamp": 1_704_067_200_000u64,
                });
                let out = Utf8Bytes::from(out.to_string());
                for member in locked(&rooms).get(&channel)? {
                    let _ = member.send(Message::Text(out.clone()));
                }
            }
            _ => {}
        }
    }
    Some(())
}

fn locked(rooms: &Rooms) -> std::sync::MutexGuard<'_, HashMap<String, Vec<UnboundedSender<Message>>>> {
    rooms.lock().unwrap_or_else(PoisonError::into_inner)
}
