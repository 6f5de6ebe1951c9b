//! Tests of the grammar: each form, each option, each error, and that written text can be read
//! back.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::builtin::delay::{Distribution, Law, Stall};
use crate::net::proxy::{Networks, ProxyHeaders};
use crate::net::transport::{Mode, Owner, SourceRate, UdpOptions, UnixOptions};
use crate::protocol::framing::{ByteOrder, DELIMITER_MAX, Delimiter, FRAME_BYTES_MAX, Framing};
#[cfg(feature = "tls")]
use crate::tls::options::{ClientAuth, Files, Protocols, ServerNameText};
#[cfg(feature = "tls")]
use crate::tls::options::{TlsClientOptions, TlsOptions, TlsVersion};

fn parse(text: &str) -> Spec {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    text.parse::<Spec>().expect_err(text).to_string()
}

#[test]
fn echo_is_meant_where_no_service_is_named() {
    for text in ["7777", "echo://7777", "tcp://7777"] {
        let spec = parse(text);
        assert_eq!((spec.service, &spec.address[..]), (ServiceOptions::Echo, "7777"), "{text}");
    }
    assert_eq!(parse("unix:///run/e.sock").address, "/run/e.sock");
}

#[test]
fn every_service_is_named_over_every_transport() {
    for service in ServiceOptions::all() {
        for transport in TransportOptions::all() {
            let carried = !transport.is_datagram() || service.serves_datagrams();
            let is_stream = service.serves_streams();
            let (service, over) = (service.name(), transport.name());
            if !is_stream && !transport.is_datagram() {
                let error = error(&format!("{service}+{over}://7"));
                assert_eq!(error, format!("{service} runs over udp only: write {service}://"));
                continue;
            }
            if !carried {
                let error = error(&format!("{service}+{over}://7"));
                assert!(error.starts_with(&format!("{service} needs a stream")), "{error}");
                assert!(
                    error.contains("only echo, discard, chargen, stamp run over it"),
                    "{error}"
                );
                continue;
            }
            let spec = parse(&format!("{service}+{over}:///e?"));
            assert_eq!((spec.service.name(), spec.transport.name()), (service, over));
            assert_eq!(spec.to_string().parse(), Ok(spec), "{service}, {over}");
        }
    }
    for (text, written) in [
        ("echo+unix:///e", "unix:///e"),
        ("echo+udp://:7?source-rate=5k/s", "udp://:7?source-rate=5000/s"),
        ("chargen+udp://h:7?max-datagram=1k", "chargen+udp://h:7?max-datagram=1Ki"),
        ("stamp://:862?stateful=off", "stamp://:862"),
        ("stamp+udp://h:1?stateful=on&source-rate=9/s", "stamp://h:1?stateful=on&source-rate=9/s"),
        ("unix://@e?mode=600", "unix://@e?mode=0600"),
        ("framed+tcp://7?order=big", "framed://7?order=big"),
        ("hub+unix:///e?owner=a%3Ab&queue=9&mode=0", "hub+unix:///e?queue=9&mode=0000&owner=a:b"),
    ] {
        assert_eq!(parse(text).to_string(), written);
    }
}

#[test]
fn no_option_is_one_of_a_service_and_of_a_transport() {
    for service in ServiceOptions::all() {
        for transport in TransportOptions::all() {
            let own = service.options().about().iter().map(|about| about.name);
            let shared: Vec<_> =
                own.filter(|&name| transport.option_names().contains(&name)).collect();
            assert_eq!(shared, [""; 0], "{}, {}", service.name(), transport.name());
        }
    }
}

#[test]
fn every_service_has_its_name_and_the_stated_defaults() {
    let names =
        ["echo", "discard", "chargen", "framed", "message", "hub", "delay", "timed", "stamp"];
    assert_eq!(ServiceOptions::all().iter().map(ServiceOptions::name).collect::<Vec<_>>(), names);
    for name in names {
        let spec = parse(&format!("{name}://[::1]:7"));
        assert_eq!((spec.service.name(), &spec.address[..]), (name, "[::1]:7"));
    }
    let framed = FramedOptions { order: ByteOrder::Little, max_frame: 1 << 20 };
    assert_eq!(parse("framed://7").service, ServiceOptions::Framed(framed));
    let message = MessageOptions {
        delimiter: Delimiter::new(b"<EOF>").unwrap(),
        after: After::Close,
        max_message: 65_536,
        show: 200,
    };
    assert_eq!(parse("message://7?").service, ServiceOptions::Message(message));
    let hub = HubOptions {
        order: ByteOrder::Little,
        max_message: None,
        queue: 262_144,
        slow: Slow::Drop,
        notices: true,
    };
    assert_eq!(parse("hub://7").service, ServiceOptions::Hub(hub));
    let stamp = ServiceOptions::Stamp(StampOptions { stateful: false });
    assert_eq!(parse("stamp://7").service, stamp);
}

#[test]
fn every_option_is_read() {
    let framed = FramedOptions { order: ByteOrder::Big, max_frame: 7 };
    assert_eq!(parse("framed://h:7?order=big&max-frame=7").service, ServiceOptions::Framed(framed));
    let message = MessageOptions {
        delimiter: Delimiter::new(b"\r\n").unwrap(),
        after: After::Keep,
        max_message: 1024,
        show: 0,
    };
    assert_eq!(
        parse(r"message://h:7?delimiter=\r\n&after=keep&max-message=1k&show=0").service,
        ServiceOptions::Message(message)
    );
    let hub = HubOptions {
        order: ByteOrder::Big,
        max_message: Some(100),
        queue: 1,
        slow: Slow::Close,
        notices: false,
    };
    assert_eq!(
        parse("hub://h:7?order=big&max-message=100&queue=1&slow=close&notices=off").service,
        ServiceOptions::Hub(hub)
    );
}

#[test]
fn the_defaults_given_take_the_place_of_the_usual_ones() {
    let mut defaults = Defaults::default();
    defaults.set("order", b"big", "--order").unwrap();
    defaults.set("max-frame", b"9", "--max-frame").unwrap();
    let spec = Spec::parse("framed://7?max-frame=10", &defaults).unwrap();
    assert_eq!(
        spec.service,
        ServiceOptions::Framed(FramedOptions { order: ByteOrder::Big, max_frame: 10 })
    );
    assert_eq!(
        spec.to_string(),
        "framed://7?order=big&max-frame=10",
        "written for readers with other defaults"
    );
}

#[test]
fn a_delimiter_may_be_any_bytes() {
    let delimiter = |text: &str| match parse(&format!("message://7?delimiter={text}")).service {
        ServiceOptions::Message(message) => message.delimiter.bytes().to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(delimiter("<EOF>"), b"<EOF>");
    assert_eq!(delimiter("%3CEOF%3e"), b"<EOF>");
    assert_eq!(delimiter(r"\n"), b"\n");
    assert_eq!(delimiter(r"\r\n\t\0\\\x1e\xFF"), b"\r\n\t\0\\\x1e\xff");
    assert_eq!(delimiter("%5cn"), b"\n", "escapes are read after percent-decoding");
    assert_eq!(delimiter("%00%26%3D%25"), b"\0&=%");
    assert_eq!(delimiter("a+b"), b"a+b", "a plus is a plus: this is not an HTML form");
    assert_eq!(delimiter("=="), b"==");
    assert_eq!(delimiter("%ff%fe"), b"\xff\xfe");
}

#[test]
fn what_is_not_understood_is_told_what_would_be() {
    for (text, parts) in [
        ("http://h:80", &["'http'", "echo, discard, chargen, framed, message, hub"][..]),
        ("ECHO://7", &["'ECHO'", "echo"]),
        ("framed://7?colour=red", &["'colour' is not an option", "framed takes order, max-frame"]),
        ("framed://7?after=keep", &["option of message, not of framed", "order, max-frame"]),
        ("echo://7?order=big", &["option of framed, hub, timed, not of echo", "echo takes none"]),
        ("7?order=big", &["echo takes none"]),
        ("framed+unix:///e?x=1", &["framed takes order, max-frame, unix takes mode, owner"]),
        ("framed://7?mode=600", &["'mode' is an option of unix, unix+tls, not of framed"]),
        ("unix:///e?mode=0o7", &["mode: '0o7' must be the octal number", "0777"]),
        ("unix:///e?mode=1000", &["'1000'", "at most 0777"]),
        ("unix:///e?owner=:", &["owner: ':' must be a user, user:group or :group"]),
        (
            "framed+udp://7",
            &["framed needs a stream", "only echo, discard, chargen, stamp run over it"],
        ),
        ("udp://7?proxy=require", &["'proxy' is not an option", "udp takes max-datagram"]),
        ("udp://7?source-rate=1m", &["1/s to 1000000/s"]),
        ("echo+udp+tls://7", &["TLS runs over tcp and unix, and not over udp"]),
        ("udp+framed://7", &["'framed' is not a transport"]),
        ("framed://7?order", &["order=VALUE"]),
        ("framed://7?order=big&order=big", &["order is given twice"]),
        ("framed://7?order=middle", &["order", "little or big"]),
        ("framed://7?max-frame=0", &["max-frame", "from 1 to 2147483647"]),
        ("framed://7?max-frame=2g", &["max-frame", "2147483647"]),
        ("framed://7?max-frame=1MB", &["max-frame", "16k"]),
        ("message://7?after=later", &["close or keep"]),
        ("message://7?delimiter=", &["delimiter", "1 to 16 bytes"]),
        ("message://7?delimiter=12345678901234567", &["1 to 16 bytes", "17"]),
        (r"message://7?delimiter=\q", &[r"\\q", "xNN"]),
        (r"message://7?delimiter=\x1", &["xNN"]),
        (r"message://7?delimiter=\", &["xNN"]),
        ("message://7?delimiter=%4", &["%25"]),
        ("message://7?delimiter=%zz", &["%25"]),
        ("message://7?max-message=4", &["max-message is 4", "<EOF>", "5 bytes"]),
        ("message://7?show=1m", &["show", "65536"]),
        ("hub://7?max-message=16385", &["16385", "16384"]),
        ("hub://7?slow=wait", &["drop or close"]),
        ("hub://7?notices=yes", &["notices", "on or off"]),
        ("hub://7?queue=0", &["queue"]),
    ] {
        let error = error(text);
        for part in parts {
            assert!(error.contains(part), "{text}: {error}: does not say {part}");
        }
    }
}

#[test]
fn what_is_not_the_default_is_written() {
    for (text, written) in [
        ("7777", "tcp://7777"),
        ("echo://[::1]:7", "tcp://[::1]:7"),
        ("discard://7", "discard://7"),
        ("framed://h:7?order=little&max-frame=1m", "framed://h:7"),
        ("framed://h:7?order=big&max-frame=65536", "framed://h:7?order=big&max-frame=64Ki"),
        (r"message://7?delimiter=\n&after=keep", "message://7?delimiter=%0A&after=keep"),
        (r"message://7?delimiter=\\n", "message://7?delimiter=%5C%5Cn"),
        ("message://7?show=0&max-message=1000", "message://7?max-message=1000&show=0"),
        ("hub://7?slow=close&notices=off&queue=2m", "hub://7?queue=2Mi&slow=close&notices=off"),
        ("hub://7?max-message=100", "hub://7?max-message=100"),
        ("7?proxy=off", "tcp://7"),
        ("7?proxy=require&proxy-from=127.0.0.0/8,::1", "tcp://7?proxy=require"),
        (
            "hub+unix://e?proxy-from=10.1.1.1/8&proxy=optional&order=big",
            "hub+unix://e?order=big&proxy=optional&proxy-from=10.0.0.0/8",
        ),
    ] {
        assert_eq!(parse(text).to_string(), written);
        assert_eq!(parse(written), parse(text));
    }
}

#[test]
fn framed_and_message_have_a_framing() {
    let big = Framing::Length { order: ByteOrder::Big, max: 10 };
    assert_eq!(parse("framed://7?order=big&max-frame=10").service.framing(), Some(big));
    let delimiter = Delimiter::new(b"\n").unwrap();
    let lines = Framing::Delimiter { delimiter, max: 65_536 };
    assert_eq!(parse(r"message://7?delimiter=\n").service.framing(), Some(lines));
    for text in ["7", "discard://7", "chargen://7", "hub://7"] {
        assert_eq!(parse(text).service.framing(), None);
    }
}

fn any_service() -> impl Strategy<Value = ServiceOptions> {
    let order = || prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)];
    let framed = (order(), 1..=FRAME_BYTES_MAX)
        .prop_map(|(order, max_frame)| ServiceOptions::Framed(FramedOptions { order, max_frame }));
    let after = prop_oneof![Just(After::Close), Just(After::Keep)];
    let bytes = proptest::collection::vec(any::<u8>(), 1..=DELIMITER_MAX);
    let message = (bytes, after, 16..=FRAME_BYTES_MAX, 0..=65_536_u32);
    let message = message.prop_map(|(bytes, after, max_message, show)| {
        let delimiter = Delimiter::new(&bytes).unwrap();
        ServiceOptions::Message(MessageOptions { delimiter, after, max_message, show })
    });
    let max_message = proptest::option::of(1..=16_384_u32);
    let slow = prop_oneof![Just(Slow::Drop), Just(Slow::Close)];
    let hub = (order(), max_message, 1..=(1_u32 << 30), slow, any::<bool>());
    let hub = hub.prop_map(|(order, max_message, queue, slow, notices)| {
        ServiceOptions::Hub(HubOptions { order, max_message, queue, slow, notices })
    });
    let stamp = any::<bool>().prop_map(|stateful| ServiceOptions::Stamp(StampOptions { stateful }));
    let plain = prop_oneof![Just(ServiceOptions::Echo), Just(ServiceOptions::Chargen)];
    prop_oneof![framed, message, hub, stamp, plain]
}

fn any_proxy() -> impl Strategy<Value = ProxyOptions> {
    let headers = prop_oneof![Just(ProxyHeaders::Optional), Just(ProxyHeaders::Require)];
    let network = "([1-9]{1,2}\\.){3}[0-9]/[0-9]|fd0[0-9]::[0-9]{1,3}";
    let from = proptest::collection::vec(network, 1..4);
    let from = from.prop_map(|all| Networks::new(&all.join(",")).unwrap());
    let on = (headers, from).prop_map(|(headers, from)| ProxyOptions { headers, from });
    prop_oneof![Just(ProxyOptions::default()), on]
}

fn any_transport() -> BoxedStrategy<TransportOptions> {
    let mode = proptest::option::of((0..=0o777_u32).prop_map(|bits| Mode::new(bits).unwrap()));
    let owner = "[a-z&%?]{0,3}:?[a-z0-9]{1,3}".prop_map(|text| Owner::new(&text).unwrap());
    let owner = proptest::option::of(owner);
    let unix = (mode, owner).prop_map(|(mode, owner)| UnixOptions { mode, owner });
    let any =
        prop_oneof![Just(TransportOptions::Tcp), unix.clone().prop_map(TransportOptions::Unix),];
    #[cfg(feature = "tls")]
    let any = prop_oneof![
        any,
        any_tls().prop_map(TransportOptions::Tls),
        (unix, any_tls()).prop_map(|(unix, tls)| TransportOptions::UnixTls(unix, tls)),
    ];
    let rate =
        proptest::option::of((1..=1_000_000_u32).prop_map(|one| SourceRate::new(one).unwrap()));
    let udp = (1..=65_527_u32, rate, proptest::bool::ANY, 4096..=1_u32 << 30).prop_map(
        |(max_datagram, source_rate, segmentation, receive_buffer)| UdpOptions {
            max_datagram,
            source_rate,
            segmentation,
            receive_buffer,
        },
    );
    prop_oneof![4 => any, 1 => udp.prop_map(TransportOptions::Udp)].boxed()
}

#[cfg(feature = "tls")]
fn any_tls() -> impl Strategy<Value = TlsOptions> + Clone {
    let files = |most| {
        let paths = proptest::collection::vec("[ -+\\-~é]{1,5}", 1..=most);
        paths.prop_map(|paths| Files::new(paths).unwrap())
    };
    let pair = proptest::option::of((files(1), files(1)));
    let client_ca = proptest::option::of(files(2));
    let auth = prop_oneof![Just(ClientAuth::Require), Just(ClientAuth::Optional)];
    let names = proptest::collection::vec(proptest::collection::vec(45..=255_u8, 1..9), 1..3);
    let alpn = proptest::option::of(names.prop_map(|names| Protocols::new(names).unwrap()));
    let oldest = prop_oneof![Just(TlsVersion::V1_2), Just(TlsVersion::V1_3)];
    let own = (pair, client_ca, auth, alpn, oldest.clone());
    let name = "[ -~]{1,9}".prop_map(|name| ServerNameText::new(&name).unwrap());
    let client = (proptest::option::of(files(2)), proptest::option::of(name));
    let client = (client, any::<bool>(), any::<bool>(), oldest);
    (own, client).prop_map(|((pair, client_ca, auth, alpn, tls_min), client)| {
        let (cert, key) = pair.unzip();
        let client_auth = if client_ca.is_some() { auth } else { ClientAuth::Require };
        let ((ca, sni), insecure, resume, tls_max) = client;
        let insecure = insecure && ca.is_none();
        let client = TlsClientOptions { ca, sni, insecure, resume, tls_max };
        TlsOptions { cert, key, client_ca, client_auth, alpn, tls_min, client }
    })
}

#[cfg(feature = "tls")]
#[test]
fn options_of_tls_that_do_not_fit_together_are_refused() {
    for (text, part) in [
        ("tls://7?cert=&key=k", "cert: '' must be a path"),
        ("tls://7?cert=a,&key=a,b", "cert: '' must be a path"),
        ("tls://7?client-auth=optional", "client-auth needs client-ca"),
        ("tls://7?client-auth=maybe", "must be require or optional"),
        ("tls://7?alpn=", "1 to 255 bytes"),
        ("tls://7?tls-min=1.1", "must be 1.2 or 1.3"),
        ("tls://7?mode=600", "'mode' is an option of unix, unix+tls, not of echo"),
        ("unix:///e?cert=c.pem", "'cert' is an option of tls, unix+tls, not of echo"),
    ] {
        let error = error(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    #[test]
    fn what_is_written_is_read_back(
        service in any_service(),
        transport in any_transport(),
        proxy in any_proxy(),
    ) {
        // Not all services have datagrams, and these have no proxies.
        let streams = !transport.is_datagram();
        prop_assume!(if streams { service.serves_streams() } else { service.serves_datagrams() });
        let proxy = if streams { proxy } else { ProxyOptions::default() };
        let spec = Spec { service, transport, proxy, address: "[::1]:7777".to_owned() };
        let written = spec.to_string();
        prop_assert_eq!(written.parse::<Spec>().unwrap(), spec, "{}", written);
        prop_assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{}", written);
    }

    #[test]
    fn no_text_panics(text in "\\PC*", query in "[a-z%=&\\\\0-9?]*") {
        let _ = text.parse::<Spec>();
        let _ = format!("message://7?{query}").parse::<Spec>();
        let _ = format!("message://7?delimiter={query}").parse::<Spec>();
    }
}

fn delay(query: &str) -> DelayOptions {
    match parse(&format!("delay://7?{query}")).service {
        ServiceOptions::Delay(options) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_law_is_read() {
    let ms = Duration::from_millis;
    let law = |query: &str| delay(query).law.delay;
    assert_eq!(delay(""), DelayOptions::default());
    assert_eq!(delay("").law, Law::default());
    assert_eq!(law("fixed=1ms"), Distribution::Fixed(ms(1)));
    assert_eq!(law("uniform=1ms-5ms"), Distribution::Uniform(ms(1), ms(5)));
    let bimodal = Distribution::Bimodal([(ms(1), 90), (ms(20), 10)]);
    assert_eq!(law("bimodal=1ms:90,20ms:10"), bimodal);
    assert_eq!(law("bimodal=1ms%3A90%2C20ms%3A10"), bimodal);
    let two = Distribution::Exponential(ms(2));
    for query in ["exp=2ms", "dist=exp&mean=2ms", "mean=2ms&dist=exp"] {
        assert_eq!(law(query), two, "{query}");
    }
    assert_eq!(law("dist=exp&queue=1"), Distribution::Exponential(ms(1)));
    let stall = Some(Stall { lasts: ms(100), every: ms(1000) });
    let options = DelayOptions {
        law: Law { delay: two, queue: true, stall },
        seed: 7,
        size: 64,
        depth: 1000,
        hold: 4096,
    };
    let query = "exp=2ms&queue=1&stall=100ms/1s&size=64&depth=1k&hold=4k&seed=7";
    assert_eq!(delay(query), options);
    assert!(!delay("queue=0").law.queue);
}

#[test]
fn a_law_that_is_not_understood_is_told_what_would_be() {
    for (query, part) in [
        ("fixed=1", "1s or 1ms"),
        ("fixed=2h", "more than an hour"),
        ("fixed=1ms&exp=1ms", "fixed and exp"),
        ("uniform=1ms-2ms&dist=exp", "uniform and dist"),
        ("mean=1ms", "dist=exp"),
        ("exp=1ms&mean=1ms", "dist=exp"),
        ("dist=fixed", "fixed=TIME"),
        ("dist=normal", "must be exp"),
        ("exp=0s", "more than 0"),
        ("uniform=5ms-1ms", "1ms-5ms"),
        ("uniform=5ms", "1ms-5ms"),
        ("bimodal=1ms:90", "1ms:90,20ms:10"),
        ("bimodal=1ms,2ms", "1ms:90,20ms:10"),
        ("bimodal=1ms:0,2ms:1", "from 1 to 1000000"),
        ("stall=1s", "100ms/1s"),
        ("stall=1s/1s", "100ms/1s"),
        ("stall=0s/1s", "100ms/1s"),
        ("queue=2", "must be 1 or 0 (1: all requests queue for one server; 0: each"),
        ("depth=0", "from 1 to 65536"),
        ("depth=65537", "from 1 to 65536"),
        ("hold=0", "from 1 to 1073741824"),
        ("size=300k", "raise hold"),
        ("seed=x", "whole number"),
        ("order=big", "delay takes fixed, uniform, bimodal, exp"),
    ] {
        let error = error(&format!("delay://7?{query}"));
        assert!(error.contains(part), "{query}: {error}");
    }
}

#[test]
fn laws_that_are_written_are_read_back() {
    for (query, written) in [
        ("", ""),
        ("fixed=0s&queue=0&seed=1", ""),
        ("fixed=1000us", "?fixed=1ms"),
        ("fixed=1500us", "?fixed=1500us"),
        ("uniform=0ms-1s", "?uniform=0s-1s"),
        ("bimodal=1ms:90,20ms:10", "?bimodal=1ms:90,20ms:10"),
        ("dist=exp&mean=60s", "?exp=60s"),
        (
            "seed=9&hold=3&depth=5&size=2&stall=100ms/1s&queue=1&exp=7ns",
            "?exp=7ns&queue=1&stall=100ms/1s&size=2&depth=5&hold=3&seed=9",
        ),
    ] {
        let spec = parse(&format!("delay://7?{query}"));
        assert_eq!(spec.to_string(), format!("delay://7{written}"));
        assert_eq!(parse(&spec.to_string()), spec);
    }
}
