use proptest::prelude::*;

use super::*;

/// A masked client frame.
fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = [7, 91, 200, 33];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<String>, FrameError> {
    let mut seen = Vec::new();
    decoder.decode(&mut bytes.to_vec(), 1024, None, |message| {
        seen.push(format!("{message:?}"));
        true
    })?;
    Ok(seen)
}

#[test]
fn a_control_frame_may_stand_between_fragments() {
    let mut bytes = client_frame(0x01, "hal".as_bytes());
    bytes.extend(client_frame(0x89, b"p"));
    bytes.extend(client_frame(0x80, "lo é".as_bytes()));
    let seen = decode(&mut Decoder::default(), &bytes).unwrap();
    assert_eq!(seen, ["Ping([112])", "Text(\"hallo é\")"]);
}

#[test]
fn what_rfc_6455_forbids_is_refused() {
    let forbidden: [(&str, Vec<u8>); 9] = [
        ("reserved bit", client_frame(0xC1, b"x")),
        ("reserved opcode", client_frame(0x83, b"x")),
        ("unmasked", vec![0x81, 1, b'x']),
        ("fragmented ping", client_frame(0x09, b"x")),
        ("long ping", client_frame(0x89, &[0; 126])),
        ("continuation without beginning", client_frame(0x80, b"x")),
        ("half a close code", client_frame(0x88, &[3])),
        ("close code 1005", client_frame(0x88, &1005_u16.to_be_bytes())),
        ("two beginnings", [client_frame(0x01, b"a"), client_frame(0x81, b"b")].concat()),
    ];
    for (name, bytes) in forbidden {
        let error = decode(&mut Decoder::default(), &bytes).unwrap_err();
        assert!(matches!(error, FrameError::Protocol(_)), "{name}: {error:?}");
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused_at_its_header() {
    let mut decoder = Decoder::default();
    assert!(decode(&mut decoder, &client_frame(0x81, &[b'x'; 1024])).is_ok());
    let announced = [0x81, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(decode(&mut decoder, &announced), Err(FrameError::TooBig(1024)));
    let mut decoder = Decoder::default();
    assert!(decode(&mut decoder, &client_frame(0x01, &[b'x'; 1000])).is_ok());
    assert_eq!(decode(&mut decoder, &client_frame(0x80, &[b'x'; 25])), Err(FrameError::TooBig(1024)));
}

#[test]
fn a_text_that_is_not_utf_8_is_refused() {
    let error = decode(&mut Decoder::default(), &client_frame(0x81, &[0xFF])).unwrap_err();
    assert_eq!(error.close().code.number(), 1007);
}

#[test]
fn a_close_reason_is_cut_at_a_character() {
    let close = Close { code: CloseCode::UnknownApp, reason: "é".repeat(100).into() };
    let frame = Frame::close(&close);
    assert!(frame.bytes().len() <= 127);
    assert!(std::str::from_utf8(&frame.bytes()[4..]).is_ok());
}

#[test]
fn a_compressed_frame_is_measured_like_any_other() {
    let mut compressor = Compressor::new();
    let mut frames = Vec::new();
    for length in [2, 600, 100_000, 20_000_000] {
        let plain = Frame::text(length, |buffer| buffer.resize(buffer.len() + length, b'x'));
        let compressed = plain.compressed(&mut compressor);
        assert_eq!(compressed.is_some(), length > 2, "{length}");
        frames.push(compressed.unwrap_or(plain));
    }
    assert!(frames.iter().skip(1).all(|frame| frame.bytes()[0] == 0xC1));
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    let mut at = 0;
    for (end, frame) in frame_ends(&bytes).zip(&frames) {
        assert_eq!(&bytes[at..end], frame.bytes());
        assert!(frame.bytes().ends_with(frame.payload()));
        at = end;
    }
    assert_eq!(at, bytes.len());
    assert!(Frame::ping().compressed(&mut compressor).is_none());
}

#[test]
fn compressed_messages_are_read_only_with_an_inflater() {
    let payload = Compressor::new().compress("hallo ".repeat(20).as_bytes()).unwrap().to_vec();
    let (head, tail) = payload.split_at(5);
    let fragments = [client_frame(0x41, head), client_frame(0x89, b"p"), client_frame(0x80, tail)].concat();
    for (bytes, expected) in [(client_frame(0xC1, &payload), 1), (fragments, 2)] {
        let (mut count, mut inflater) = (0, Inflater::default());
        let decoded = Decoder::default().decode(&mut bytes.clone(), 1024, Some(&mut inflater), |message| {
            if let Message::Text(text) = message {
                assert_eq!(text, "hallo ".repeat(20));
            }
            count += 1;
            true
        });
        assert_eq!((decoded, count), (Ok(()), expected));
        let refused = decode(&mut Decoder::default(), &bytes);
        assert_eq!(refused, Err(FrameError::Protocol("A reserved bit is set")));
    }
}

proptest! {
    #[test]
    fn however_the_bytes_are_split_the_messages_are_the_same(
        texts in prop::collection::vec(prop::collection::vec(".{0,90}", 1..4), 1..6),
        cuts in prop::collection::vec(1_usize..40, 1..200),
    ) {
        let mut bytes = Vec::new();
        for fragments in &texts {
            let last = fragments.len() - 1;
            for (at, fragment) in fragments.iter().enumerate() {
                let opcode = u8::from(at == 0) | if at == last { 0x80 } else { 0 };
                bytes.extend(client_frame(opcode, fragment.as_bytes()));
            }
        }
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        let mut rest = &mut bytes[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_mut((*cuts.next().unwrap()).min(rest.len()));
            decoder.decode(piece, 1 << 20, None, |message| {
                if let Message::Text(text) = message { seen.push(text.into_owned()) }
                true
            }).unwrap();
            rest = behind;
        }
        let sent: Vec<String> = texts.iter().map(|fragments| fragments.concat()).collect();
        prop_assert_eq!(seen, sent);
        prop_assert_eq!(decoder.waiting(), 0);
    }

    #[test]
    fn any_bytes_end_in_messages_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::default();
        let _ = decoder.decode(&mut bytes.clone(), 128, None, |_| true);
        prop_assert!(decoder.waiting() <= 300 + 128);
    }
}
