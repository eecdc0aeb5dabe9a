//! The same hub as `tungstenite` by somebody who has profiled it: one thread without locks, and what waits for a
//! connection goes out together.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

type Rooms = Rc<RefCell<HashMap<String, Vec<UnboundedSender<Message>>>>>;

/// Serves until it is killed, on one thread as the others do.
pub(super) fn run(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("can't listen")?;
        let rooms = Rooms::default();
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::task::spawn_local(serve(stream, Rc::clone(&rooms)));
        }
    })
}

async fn serve(stream: TcpStream, rooms: Rooms) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let socket = tokio_tungstenite::accept_async(stream).await.ok()?;
    let (mut sink, mut source) = socket.split();
    let (sender, mut receiver) = unbounded_channel::<Message>();
    tokio::task::spawn_local(async move {
        while let Some(message) = receiver.recv().await {
            if sink.feed(message).await.is_err() {
                return;
            }
            // What is there already goes out together.
            while let Ok(message) = receiver.try_recv() {
                if sink.feed(message).await.is_err() {
                    return;
                }
            }
            if sink.flush().await.is_err() {
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
                rooms.borrow_mut().entry(channel).or_default().push(sender.clone());
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
                for member in rooms.borrow().get(&channel)? {
                    let _ = member.send(Message::Text(out.clone()));
                }
            }
            _ => {}
        }
    }
    Some(())
}
