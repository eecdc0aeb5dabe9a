//! MessagePack as a client writes and reads it: by `rmpv`, and apart from the server's, so that both can't share a
//! mistake.

use serde_json::Value;

/// A message of JSON in MessagePack; nothing for what is no JSON.
pub(super) fn of_text(text: &str) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &packed(&value)).ok()?;
    Some(bytes)
}

fn packed(value: &Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(is) => (*is).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(values) => rmpv::Value::Array(values.iter().map(packed).collect()),
        Value::Object(members) => rmpv::Value::Map(
            members.iter().map(|(key, value)| (key.as_str().into(), packed(value))).collect(),
        ),
    }
}

/// The server's message as JSON.
///
/// # Errors
/// If it is none that JSON could be: clients publish nothing of that kind.
pub(super) fn to_text(mut bytes: &[u8]) -> Result<String, String> {
    let value = rmpv::decode::read_value(&mut bytes).map_err(|error| format!("no MessagePack: {error}"))?;
    if !bytes.is_empty() {
        return Err(format!("{} bytes follow the message", bytes.len()));
    }
    Ok(plain(&value)?.to_string())
}

fn plain(value: &rmpv::Value) -> Result<Value, String> {
    let text = |it: &rmpv::Value| it.as_str().map(str::to_owned).ok_or_else(|| format!("{it} is no text"));
    Ok(match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(is) => (*is).into(),
        rmpv::Value::Integer(it) => it.as_u64().map_or_else(|| it.as_i64().into(), Value::from),
        rmpv::Value::F32(it) => (*it).into(),
        rmpv::Value::F64(it) => (*it).into(),
        rmpv::Value::String(_) => text(value)?.into(),
        rmpv::Value::Array(values) => Value::Array(values.iter().map(plain).collect::<Result<_, _>>()?),
        rmpv::Value::Map(members) => {
            let member = |(key, value): &(rmpv::Value, rmpv::Value)| Ok((text(key)?, plain(value)?));
            Value::Object(members.iter().map(member).collect::<Result<_, String>>()?)
        }
        rmpv::Value::Binary(_) | rmpv::Value::Ext(..) => return Err(format!("nobody published {value}")),
    })
}
