//! From bytes to one form of value and back, for the protocols that the SDKs speak: JSON 1.0 and 1.1, RPC v2 CBOR
//! (CloudWatch in the Rust SDK), and query with XML answers (SNS).
//!
//! Source: Smithy specification, "AWS JSON 1.0 and 1.1", "AWS query", "Smithy RPC v2 CBOR"; read 2026-11.

use std::io::Read;

use serde_json::{Map, Value, json};

use super::{Api, Fault};

/// The largest body, unpacked: SQS takes 1 MiB, everything else less.
const UNPACKED_MAX: u64 = 4 << 20;

/// How a request speaks, and an answer to it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `application/x-amz-json-1.0`.
    Json10,
    /// `application/x-amz-json-1.1`.
    Json11,
    /// `application/cbor`.
    Cbor,
    /// A form in, XML out.
    Query,
}

/// A request, read as far as its protocol goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) api: Api,
    pub(crate) operation: String,
    pub(crate) protocol: Protocol,
    pub(crate) input: Value,
}

/// What of a request's head matters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) path: &'a str,
    /// `x-amz-target`.
    pub(crate) target: Option<&'a str>,
    pub(crate) content_type: &'a str,
    pub(crate) content_encoding: Option<&'a str>,
}

/// Reads a request.
pub(crate) fn decode(head: Head<'_>, body: &[u8]) -> Result<Request, Fault> {
    let unpacked;
    let body = match head.content_encoding {
        None | Some("identity" | "aws-chunked") => body,
        Some("gzip") => {
            unpacked = gunzip(body)?;
            &unpacked
        }
        Some(other) => {
            let message = format!("lifeboat lab does not read the content encoding {other}");
            return Err(Fault::new("SerializationException", message));
        }
    };
    if let Some(target) = head.target {
        return json_request(target, head.content_type, body);
    }
    if let Some(rest) = head.path.strip_prefix("/service/") {
        return cbor_request(rest, body);
    }
    if head.content_type.starts_with("application/x-www-form-urlencoded") {
        return query_request(body);
    }
    Err(Fault::not_served(
        "a request without X-Amz-Target, without /service/… in its path and without a form",
    ))
}

fn gunzip(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut unpacked = Vec::new();
    let read = flate2::read::GzDecoder::new(body).take(UNPACKED_MAX).read_to_end(&mut unpacked);
    match read {
        Ok(_) if (unpacked.len() as u64) < UNPACKED_MAX => Ok(unpacked),
        Ok(_) | Err(_) => Err(Fault::new("SerializationException", "the body is no gzip, or too large")),
    }
}

fn json_request(target: &str, content_type: &str, body: &[u8]) -> Result<Request, Fault> {
    let (service, operation) = target.split_once('.').unwrap_or((target, ""));
    let api = match service {
        "AmazonEC2ContainerServiceV20141113" => Api::Ecs,
        "AmazonSQS" => Api::Sqs,
        "AmazonSSM" => Api::Ssm,
        "GraniteServiceVersion20100801" => Api::CloudWatch,
        other => return Err(Fault::not_served(other)),
    };
    let protocol = if content_type.ends_with("1.0") { Protocol::Json10 } else { Protocol::Json11 };
    let input = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(body)
            .map_err(|error| Fault::new("SerializationException", error.to_string()))?
    };
    Ok(Request { api, operation: operation.to_owned(), protocol, input })
}

fn cbor_request(rest: &str, body: &[u8]) -> Result<Request, Fault> {
    let (service, operation) = rest.split_once("/operation/").unwrap_or((rest, ""));
    if service != "GraniteServiceVersion20100801" {
        return Err(Fault::not_served(service));
    }
    let input = if body.is_empty() {
        json!({})
    } else {
        let value: ciborium::Value = ciborium::from_reader(body)
            .map_err(|error| Fault::new("SerializationException", error.to_string()))?;
        from_cbor(value)?
    };
    let operation = operation.trim_end_matches('/').to_owned();
    Ok(Request { api: Api::CloudWatch, operation, protocol: Protocol::Cbor, input })
}

fn from_cbor(value: ciborium::Value) -> Result<Value, Fault> {
    use ciborium::Value as Cbor;
    let wrong = |what: &str| Fault::new("SerializationException", format!("{what} is not expected in CBOR"));
    Ok(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => json!(value),
        Cbor::Float(value) => json!(value),
        Cbor::Text(value) => json!(value),
        Cbor::Integer(value) => json!(i64::try_from(value).map_err(|_| wrong("so large a number"))?),
        // A tag says that a number is a time: CloudWatch sends no other.
        Cbor::Tag(_, inner) => from_cbor(*inner)?,
        Cbor::Array(list) => Value::Array(list.into_iter().map(from_cbor).collect::<Result<_, _>>()?),
        Cbor::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = key.into_text().map_err(|_| wrong("a key that is no text"))?;
                map.insert(key, from_cbor(value)?);
            }
            Value::Object(map)
        }
        Cbor::Bytes(_) => return Err(wrong("a byte string")),
        _ => return Err(wrong("this kind of value")),
    })
}

fn query_request(body: &[u8]) -> Result<Request, Fault> {
    let mut root = Value::Null;
    let (mut action, mut version) = (String::new(), String::new());
    for (key, value) in form_urlencoded::parse(body) {
        match key.as_ref() {
            "Action" => action = value.into_owned(),
            "Version" => version = value.into_owned(),
            path => set(&mut root, path, &value)?,
        }
    }
    let api = match version.as_str() {
        "2010-08-01" => Api::CloudWatch,
        "2010-03-31" => Api::Sns,
        other => return Err(Fault::not_served(&format!("the query API of version {other:?}"))),
    };
    let input = if root.is_null() { json!({}) } else { listed(root) };
    Ok(Request { api, operation: action, protocol: Protocol::Query, input })
}

/// `MetricData.member.1.Value=2` becomes `{"MetricData": {"member": {"1": {"Value": "2"}}}}`, and [`listed`] makes
/// lists of it.
fn set(root: &mut Value, path: &str, value: &str) -> Result<(), Fault> {
    let mut place = root;
    for part in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Some(map) = place.as_object_mut() else {
            return Err(Fault::new("MalformedQueryString", format!("{path} is set twice")));
        };
        place = map.entry(part).or_insert(Value::Null);
    }
    *place = json!(value);
    Ok(())
}

fn listed(value: Value) -> Value {
    let Value::Object(mut map) = value else { return value };
    if map.len() == 1
        && let Some(Value::Object(members)) = map.get_mut("member")
    {
        let mut entries: Vec<(usize, Value)> = std::mem::take(members)
            .into_iter()
            .map(|(key, value)| (key.parse().unwrap_or(usize::MAX), listed(value)))
            .collect();
        entries.sort_by_key(|(index, _)| *index);
        return Value::Array(entries.into_iter().map(|(_, value)| value).collect());
    }
    Value::Object(map.into_iter().map(|(key, value)| (key, listed(value))).collect())
}

/// An answer on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// Writes an answer in the protocol of its request.
pub(crate) fn encode(request: &Request, outcome: &Result<Value, Fault>, request_id: &str) -> Answer {
    let status = outcome.as_ref().map_or_else(|fault| fault.status, |_| 200);
    let mut headers = vec![("x-amzn-requestid", request_id.to_owned())];
    let body = match request.protocol {
        Protocol::Json10 | Protocol::Json11 => {
            let kind = if request.protocol == Protocol::Json10 { "1.0" } else { "1.1" };
            headers.push(("content-type", format!("application/x-amz-json-{kind}")));
            if let (Api::Sqs, Err(fault)) = (request.api, outcome) {
                headers.push(("x-amzn-query-error", format!("{};{}", query_code(&fault.code), side(fault))));
            }
            json_body(request.api, outcome).to_string().into_bytes()
        }
        Protocol::Cbor => {
            headers.push(("content-type", "application/cbor".to_owned()));
            headers.push(("smithy-protocol", "rpc-v2-cbor".to_owned()));
            cbor_body(outcome)
        }
        Protocol::Query => {
            headers.push(("content-type", "text/xml".to_owned()));
            xml_body(request, outcome, request_id).into_bytes()
        }
    };
    Answer { status, headers, body }
}

/// An answer to what could not even be read.
pub(crate) fn refuse(fault: &Fault, content_type: &str) -> Answer {
    let content_type = if content_type.starts_with("application/x-amz-json") {
        content_type
    } else {
        "application/x-amz-json-1.1"
    };
    let body = json!({ "__type": fault.code, "message": fault.message });
    Answer {
        status: fault.status,
        headers: vec![("content-type", content_type.to_owned())],
        body: body.to_string().into_bytes(),
    }
}

const fn side(fault: &Fault) -> &'static str {
    if fault.status < 500 { "Sender" } else { "Receiver" }
}

fn json_body(api: Api, outcome: &Result<Value, Fault>) -> Value {
    match outcome {
        Ok(value) => value.clone(),
        Err(fault) => {
            let name = match api {
                Api::Sqs => format!("com.amazonaws.sqs#{}", fault.code),
                Api::Ecs | Api::CloudWatch | Api::Sns | Api::Ssm => fault.code.clone(),
            };
            json!({ "__type": name, "message": fault.message })
        }
    }
}

/// The names that SQS's errors had in its query protocol, which the header keeps for old clients.
/// Source: SQS API model, trait awsQueryError; read 2026-11.
fn query_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "EmptyBatchRequest"
        | "TooManyEntriesInBatchRequest"
        | "BatchEntryIdsNotDistinct"
        | "MessageNotInflight" => format!("AWS.SimpleQueueService.{code}"),
        other => other.to_owned(),
    }
}

fn cbor_body(outcome: &Result<Value, Fault>) -> Vec<u8> {
    let value = match outcome {
        Ok(value) => value.clone(),
        Err(fault) => json!({
            "__type": format!("com.amazonaws.cloudwatch#{}", fault.code), "message": fault.message,
        }),
    };
    let mut body = Vec::new();
    let written = ciborium::into_writer(&value, &mut body);
    debug_assert!(written.is_ok(), "a vector takes everything");
    body
}

fn xml_body(request: &Request, outcome: &Result<Value, Fault>, request_id: &str) -> String {
    let space = match request.api {
        Api::Sns => "http://sns.amazonaws.com/doc/2010-03-31/",
        Api::CloudWatch | Api::Ecs | Api::Sqs | Api::Ssm => "http://monitoring.amazonaws.com/doc/2010-08-01/",
    };
    let operation = escaped(&request.operation);
    match outcome {
        Ok(value) => {
            let fields: String = value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, value)| {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    format!("<{key}>{}</{key}>", escaped(&text))
                })
                .collect();
            let result = if fields.is_empty() {
                String::new()
            } else {
                format!("<{operation}Result>{fields}</{operation}Result>")
            };
            format!(
                "<{operation}Response xmlns=\"{space}\">{result}<ResponseMetadata><RequestId>{request_id}</RequestId>\
                 </ResponseMetadata></{operation}Response>"
            )
        }
        Err(fault) => format!(
            "<ErrorResponse xmlns=\"{space}\"><Error><Type>{}</Type><Code>{}</Code><Message>{}</Message></Error>\
             <RequestId>{request_id}</RequestId></ErrorResponse>",
            side(fault),
            escaped(&fault.code),
            escaped(&fault.message)
        ),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_lists_and_maps() {
        let body =
            b"Action=PutMetricData&Version=2010-08-01&Namespace=Lifeboat&MetricData.member.1.MetricName=a\
            &MetricData.member.1.Value=1.5&MetricData.member.1.Dimensions.member.1.Name=ServiceName\
            &MetricData.member.1.Dimensions.member.1.Value=w+b&MetricData.member.2.MetricName=b";
        let head =
            Head { content_type: "application/x-www-form-urlencoded; charset=utf-8", ..Head::default() };
        let request = decode(head, body).expect("it is a form");
        assert_eq!((request.api, request.operation.as_str()), (Api::CloudWatch, "PutMetricData"));
        assert_eq!(
            request.input,
            json!({
                "Namespace": "Lifeboat",
                "MetricData": [
                    { "MetricName": "a", "Value": "1.5", "Dimensions": [{ "Name": "ServiceName", "Value": "w b" }] },
                    { "MetricName": "b" },
                ],
            })
        );
    }

    #[test]
    fn cbor_is_read_with_its_times_and_open_ended_maps() {
        // {_ "Namespace": "L", "MetricData": [{_ "Value": 1.5, "Timestamp": 1(1000.5)}]}
        let mut body = vec![0xbf, 0x69];
        body.extend(b"Namespace");
        body.extend([0x61, b'L', 0x6a]);
        body.extend(b"MetricData");
        body.extend([0x81, 0xbf, 0x65]);
        body.extend(b"Value");
        body.extend([0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 0x69]);
        body.extend(b"Timestamp");
        body.extend([0xc1, 0xfb, 0x40, 0x8f, 0x44, 0, 0, 0, 0, 0, 0xff, 0xff]);
        let path = "/service/GraniteServiceVersion20100801/operation/PutMetricData";
        let request = decode(Head { path, content_type: "application/cbor", ..Head::default() }, &body);
        let request = request.expect("it is CBOR");
        assert_eq!(request.protocol, Protocol::Cbor);
        let expected = json!({ "Namespace": "L", "MetricData": [{ "Value": 1.5, "Timestamp": 1000.5 }] });
        assert_eq!(request.input, expected);
    }

    #[test]
    fn errors_have_the_form_of_their_protocol() {
        let request = |api, protocol| Request { api, operation: "X".to_owned(), protocol, input: json!({}) };
        let fault = Err(Fault::new("QueueDoesNotExist", "no <queue>"));
        let answer = encode(&request(Api::Sqs, Protocol::Json10), &fault, "id");
        let headers = &answer.headers;
        assert!(
            headers.contains(&(
                "x-amzn-query-error",
                "AWS.SimpleQueueService.NonExistentQueue;Sender".to_owned()
            ))
        );
        let answer = encode(&request(Api::Sns, Protocol::Query), &fault, "id");
        let text = String::from_utf8(answer.body).expect("XML is text");
        assert!(text.contains("<Code>QueueDoesNotExist</Code><Message>no &lt;queue&gt;</Message>"), "{text}");
    }

    #[test]
    fn what_is_packed_is_unpacked_up_to_a_bound() {
        use std::io::Write;
        let pack = |bytes: &[u8]| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes).expect("a vector takes everything");
            packer.finish().expect("a vector takes everything")
        };
        let head =
            Head { target: Some("AmazonSSM.SendCommand"), content_encoding: Some("gzip"), ..Head::default() };
        let request = decode(head, &pack(b"{\"a\":1}")).expect("it is packed JSON");
        assert_eq!(request.input, json!({ "a": 1 }));
        assert!(decode(head, &pack(&vec![b' '; 5 << 20])).is_err(), "a bomb");
        assert!(decode(head, b"plain").is_err());
    }
}
