use super::*;
use std::io::Cursor;

const SECOND: usize = 44_100;

fn wav_seconds(bytes: &[u8]) -> Option<u32> {
    seconds(&mut Cursor::new(bytes), ContentKind::Wav, bytes.len() as u64).unwrap()
}

fn flac_seconds(bytes: &[u8]) -> Option<u32> {
    seconds(&mut Cursor::new(bytes), ContentKind::Flac, bytes.len() as u64).unwrap()
}

/// A generator of numbers below `most`, the same ones in every run.
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    move |most| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % most.max(1) as u64).unwrap()
    }
}

fn byte(number: &mut impl FnMut(usize) -> usize) -> u8 {
    u8::try_from(number(256)).unwrap()
}

mod wav {
    use super::*;

    fn chunk(id: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let pad = vec![0; data.len() % 2];
        [id.as_slice(), &u32::try_from(data.len()).unwrap().to_le_bytes(), data, &pad].concat()
    }

    fn format(code: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
        let (each, all) = (channels.wrapping_mul(bits / 8), rate.wrapping_mul(u32::from(channels * (bits / 8))));
        [
            &code.to_le_bytes(),
            &channels.to_le_bytes()[..],
            &rate.to_le_bytes(),
            &all.to_le_bytes(),
            &each.to_le_bytes(),
            &bits.to_le_bytes(),
        ]
        .concat()
    }

    fn extended(code: u16, channels: u16, bits: u16, valid: u16, places: u32) -> Vec<u8> {
        let tail = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
        let more = [&22_u16.to_le_bytes()[..], &valid.to_le_bytes(), &places.to_le_bytes(), &code.to_le_bytes(), &tail];
        [format(0xfffe, channels, 44_100, bits), more.concat()].concat()
    }

    fn wav(chunks: &[Vec<u8>]) -> Vec<u8> {
        let inside = [b"WAVE".to_vec(), chunks.concat()].concat();
        [b"RIFF".as_slice(), &u32::try_from(inside.len()).unwrap().to_le_bytes(), &inside].concat()
    }

    /// Noise that looks like nothing else.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut number = numbers();
        (0..bytes).map(|_| byte(&mut number)).collect()
    }

    fn of(format: &[u8], data: &[u8]) -> Vec<u8> {
        wav(&[chunk(b"fmt ", format), chunk(b"data", data)])
    }

    /// One channel of 16 bits.
    fn plain(data: &[u8]) -> Vec<u8> {
        of(&format(1, 1, 44_100, 16), data)
    }

    #[test]
    fn the_length_is_that_of_the_numbers_rounded_up() {
        assert_eq!(wav_seconds(&plain(&noise(4 * SECOND))), Some(2));
        assert_eq!(wav_seconds(&plain(&noise(4 * SECOND + 2))), Some(3));
        for (code, bits) in [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32)] {
            let data = noise(2 * SECOND * usize::from(bits) / 8);
            assert_eq!(wav_seconds(&of(&format(code, 2, 44_100, bits), &data)), Some(1), "{code} {bits}");
            assert_eq!(wav_seconds(&of(&format(code, 1, 44_100, bits), &data)), Some(2), "{code} {bits}");
        }
        assert_eq!(wav_seconds(&plain(&[])), Some(0));
    }

    #[test]
    fn more_than_two_channels_count_as_longer() {
        let data = noise(2 * 8 * SECOND);
        assert_eq!(wav_seconds(&of(&format(1, 2, 44_100, 16), &data)), Some(4));
        assert_eq!(
            wav_seconds(&of(&format(1, 8, 44_100, 16), &data)),
            Some(4),
            "a second of eight channels is as large as four of two"
        );
        assert_eq!(wav_seconds(&of(&format(1, 9, 44_100, 16), &data)), None);
        assert_eq!(wav_seconds(&of(&format(1, 0, 44_100, 16), &data)), None);
    }

    #[test]
    fn other_rates_than_the_usual_ones_and_other_numbers_are_not_measured() {
        let with = |code, rate, bits| wav_seconds(&of(&format(code, 1, rate, bits), &noise(4000)));
        for rate in SAMPLE_RATES {
            assert_eq!(with(1, rate, 16), Some(1), "{rate}");
        }
        for rate in [0, 1, 7999, 44_101, 192_001, 384_000, u32::MAX] {
            assert_eq!(with(1, rate, 16), None, "{rate}");
        }
        for (code, bits) in [
            (1, 0),
            (1, 12),
            (1, 17),
            (1, 64),
            (3, 16),
            (3, 24),
            (3, 64),
            (2, 4),
            (6, 8),
            (7, 8),
            (0x11, 4),
            (0x55, 16),
            (0xfffe, 16),
        ] {
            assert_eq!(with(code, 44_100, bits), None, "{code} {bits}");
        }
    }

    #[test]
    fn the_extended_form_is_read_where_it_says_the_same_twice() {
        let with = |format: &[u8]| wav_seconds(&of(format, &noise(2 * SECOND)));
        assert_eq!(with(&extended(1, 2, 16, 16, 3)), Some(1));
        assert_eq!(with(&extended(1, 2, 16, 0, 0)), Some(1));
        assert_eq!(with(&extended(1, 2, 32, 24, 3)), None, "ffmpeg would read numbers of 24 bits");
        assert_eq!(with(&extended(1, 2, 16, 16, 4)), None, "one speaker for two channels");
        assert_eq!(with(&extended(0x55, 2, 16, 16, 3)), None, "MP3 inside");
        let mut odd = extended(1, 2, 16, 16, 3);
        odd[30] = 7;
        assert_eq!(with(&odd), None, "another family of codes");
        assert_eq!(with(&format(1, 2, 44_100, 16)), Some(1));
        assert_eq!(with(&[format(1, 2, 44_100, 16), vec![0, 0]].concat()), Some(1));
        assert_eq!(with(&[format(1, 2, 44_100, 16), vec![1, 0]].concat()), None);
    }

    #[test]
    fn lying_headers_change_nothing() {
        let honest = plain(&noise(4 * SECOND));
        let data_length = 40..44;
        for claimed in [0, u32::MAX, u32::try_from(8 * SECOND).unwrap()] {
            let mut lying = honest.clone();
            lying[data_length.clone()].copy_from_slice(&claimed.to_le_bytes());
            assert_eq!(wav_seconds(&lying), Some(2), "{claimed}");
        }
        // The bytes a second and of a block that the header claims.
        let mut lying = honest.clone();
        lying[28..34].copy_from_slice(&[0xff; 6]);
        assert_eq!(wav_seconds(&lying), Some(2));
        // What a shorter claim leaves over is no chunk of data, or one too many.
        let mut short = honest.clone();
        short[data_length.clone()].copy_from_slice(&2_u32.to_le_bytes());
        assert_eq!(wav_seconds(&short), Some(2));
        short[46..50].copy_from_slice(b"data");
        assert_eq!(wav_seconds(&short), None);
        // Cut: what is there counts.
        assert_eq!(wav_seconds(&honest[..44 + 2 * SECOND]), Some(1));
        assert_eq!(wav_seconds(&honest[..44 + 2 * SECOND + 1]), Some(2));
        for cut in 0..40 {
            assert_eq!(wav_seconds(&honest[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn the_format_stands_first_and_once_and_the_data_once() {
        let (format, data) = (chunk(b"fmt ", &format(1, 1, 44_100, 16)), chunk(b"data", &noise(4000)));
        let list = chunk(b"LIST", b"INFOISFT\x06\0\0\0Lavf61");
        let measured =
            |chunks: &[&Vec<u8>]| wav_seconds(&wav(&chunks.iter().map(|chunk| (*chunk).clone()).collect::<Vec<_>>()));
        assert_eq!(measured(&[&format, &data]), Some(1));
        assert_eq!(measured(&[&format, &list, &data, &list]), Some(1));
        assert_eq!(measured(&[&list, &format, &data]), None);
        assert_eq!(measured(&[&chunk(b"XMA2", &[0; 48]), &format, &data]), None);
        assert_eq!(measured(&[&format, &format, &data]), None);
        assert_eq!(measured(&[&format, &data, &data]), None);
        assert_eq!(measured(&[&format, &list]), None);
        let odd = chunk(b"data", &noise(4001));
        assert_eq!(measured(&[&format, &odd]), Some(1), "its last byte is filled up");
        assert_eq!(measured(&[&format, &odd, &list]), None, "ffmpeg goes on at an odd place");
        let marks = vec![chunk(b"LIST", b"x"); 997].concat();
        assert_eq!(measured(&[&format, &marks, &data]), Some(1));
        assert_eq!(measured(&[&format, &marks, &list, &list, &data]), None, "so many chunks are none of a recording");
    }

    #[test]
    fn marks_of_other_forms_are_no_sound_in_the_first_bytes_and_are_behind_them() {
        let (mxf, nut) = (
            b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02".as_slice(),
            b"NM\x7aV\x1f\x5f\x04\xad".as_slice(),
        );
        for mark in [mxf, nut, b"\0BONK", b"Interplay MVE File", b"FSSD", b"Sega Stream"] {
            let mut data = noise(4000);
            data[2048 - 44..][..mark.len()].copy_from_slice(mark);
            assert_eq!(wav_seconds(&plain(&data)), Some(1), "{mark:?}");
            data[1000..][..mark.len()].copy_from_slice(mark);
            assert_eq!(wav_seconds(&plain(&data)), None, "{mark:?}");
        }
        let mut silent = vec![0; 4000];
        silent[256 - 44] = 0x83;
        assert_eq!(wav_seconds(&plain(&silent)), Some(1));
        silent[256 - 44] = 0x84;
        assert_eq!(wav_seconds(&plain(&silent)), None, "ACT");
        let mut named = plain(&noise(4000));
        named[4..8].copy_from_slice(b"moov");
        assert_eq!(wav_seconds(&named), None, "MOV");
        named[4..8].copy_from_slice(&[0xff; 4]);
        assert_eq!(wav_seconds(&named), Some(1));
    }

    /// `count` frames of one form, with zeros for contents.
    fn frames(header: &[u8], length: usize, count: usize) -> Vec<u8> {
        let mut frame = header.to_vec();
        frame.resize(length, 0);
        frame.repeat(count)
    }

    #[test]
    fn frames_of_compressed_sound_in_the_data_are_not_measured() {
        let adts = |length: usize| {
            let length = u32::try_from(length).unwrap();
            [
                0xff,
                0xf1,
                0x50,
                0x80 | u8::try_from(length >> 11).unwrap(),
                u8::try_from((length >> 3) & 0xff).unwrap(),
                u8::try_from((length & 7) << 5).unwrap() | 0x1f,
            ]
        };
        let forms: [(&str, Vec<u8>, usize); 6] = [
            ("ADTS", adts(11).to_vec(), 11),
            ("ADTS, long", adts(8191).to_vec(), 8191),
            ("LOAS", vec![0x56, 0xe0, 0x09], 12),
            ("MP3", vec![0xff, 0xfb, 0x90, 0x64], 417),
            ("MPEG-2, layer II", vec![0xff, 0xf5, 0x84, 0x64], 384),
            ("MPEG-1, layer I", vec![0xff, 0xff, 0x94, 0x64], 288),
        ];
        for (name, header, length) in forms {
            let at_start = |count| wav_seconds(&plain(&[frames(&header, length, count), noise(4000)].concat()));
            assert_eq!(at_start(3), None, "{name}");
            assert!(at_start(2).is_some(), "{name}: two may be chance");
            assert_eq!(
                wav_seconds(&plain(&[vec![0; 999], frames(&header, length, 3), noise(4000)].concat())),
                None,
                "{name}"
            );
            let anywhere =
                |count| wav_seconds(&plain(&[noise(4001), frames(&header, length, count), noise(4001)].concat()));
            assert_eq!(anywhere(64), None, "{name}");
            assert!(anywhere(20).is_some(), "{name}: a few of them amid noise convince nobody");
        }
    }

    #[test]
    fn words_of_compressed_sound_in_the_data_are_not_measured() {
        let with = |word: &[u8], count: usize| {
            let mut data = noise(400_000);
            for number in 0..count {
                data[5000 + 2000 * number..][..word.len()].copy_from_slice(word);
            }
            wav_seconds(&plain(&data))
        };
        for word in [[0x72, 0xf8, 0x1f, 0x4e], [0xf8, 0x72, 0x4e, 0x1f], [0xf8, 0x72, 0x6f, 0xba]] {
            assert_eq!(with(&word, 1), None, "{word:x?}");
        }
        for word in [
            [0x7f, 0xfe, 0x80, 0x01],
            [0xfe, 0x7f, 0x01, 0x80],
            [0x1f, 0xff, 0xe8, 0],
            [0xff, 0x1f, 0, 0xe8],
            [0x64, 0x58, 0x20, 0x25],
        ] {
            assert_eq!((with(&word, 2), with(&word, 3)), (Some(5), None), "{word:x?}");
            assert_eq!(with(&[&[7][..], &word].concat(), 3), Some(5), "{word:x?} at odd places");
        }
        for word in [[0x0b, 0x77], [0x77, 0x0b]] {
            assert_eq!((with(&word, 40), with(&word, 64)), (Some(5), None), "{word:x?}");
            assert_eq!(wav_seconds(&plain(&[&word[..], &noise(4000)].concat())), None);
        }
        assert_eq!(wav_seconds(&plain(&[&[1, 0x10][..], &noise(4000)].concat())), None);
    }

    #[test]
    fn quiet_and_loud_sounds_are_measured() {
        let mut number = numbers();
        for loudness in [1, 2, 16, 40, 127, 400, 16_000] {
            let sample = |_| i16::try_from(number(2 * loudness + 1)).unwrap() - i16::try_from(loudness).unwrap();
            let data: Vec<u8> = (0..2 * SECOND).map(sample).flat_map(i16::to_le_bytes).collect();
            assert_eq!(wav_seconds(&plain(&data)), Some(2), "{loudness}");
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        let seed =
            wav(&[chunk(b"fmt ", &extended(1, 2, 16, 16, 3)), chunk(b"LIST", b"INFO"), chunk(b"data", &noise(300))]);
        let mut number = numbers();
        let mut measured = 0;
        for _ in 0..5000 {
            let mut bytes = seed.clone();
            for _ in 0..=number(3) {
                let at = number(bytes.len());
                match number(4) {
                    0 => bytes.truncate(at + 1),
                    1 => bytes.insert(at, byte(&mut number)),
                    _ => bytes[at] = byte(&mut number),
                }
            }
            measured += u32::from(wav_seconds(&bytes).is_some());
        }
        assert!((1000..4900).contains(&measured), "{measured}");
    }
}

mod flac {
    use super::*;

    fn remainder(bytes: &[u8], bits: u32, polynomial: u32) -> u32 {
        bytes.iter().fold(0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte) << (bits - 8), |crc: u32, _| {
                let carried = crc & 1 << (bits - 1) != 0;
                (crc << 1 ^ if carried { polynomial } else { 0 }) & ((1 << bits) - 1)
            })
        })
    }

    fn head(rate: u32, channels: u8, bits: u8) -> Vec<u8> {
        let [_, _, middle, low] = rate.to_be_bytes();
        let mixed = (low & 15) << 4 | (channels - 1) << 1 | (bits - 1) >> 4;
        let rate = [u8::try_from(rate >> 12).unwrap(), middle << 4 | low >> 4, mixed, (bits - 1) << 4];
        [b"fLaC\x80\0\0\x22\x10\0\x10\0\0\0\0\0\0\0".as_slice(), &rate, &[0; 20]].concat()
    }

    /// The header of a frame: 4096 numbers of each of two channels at 44100, of the stream's bits; and its checksum.
    fn header(number: u8, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut header = vec![0xff, 0xf8, 0xc9, 0x10, number];
        change(&mut header);
        let crc = u8::try_from(remainder(&header, 8, 7)).unwrap();
        [header, vec![crc]].concat()
    }

    /// A frame with something in it, and its checksum.
    fn closed(header: Vec<u8>, inside: &[u8]) -> Vec<u8> {
        let frame = [header, inside.to_vec()].concat();
        let crc = u16::try_from(remainder(&frame, 16, 0x8005)).unwrap().to_be_bytes();
        [frame, crc.to_vec()].concat()
    }

    fn frame(number: u8) -> Vec<u8> {
        closed(header(number, |_| {}), &[0x55; 5])
    }

    fn frames(numbers: std::ops::Range<u8>) -> Vec<u8> {
        numbers.flat_map(frame).collect()
    }

    fn stream(frames: &[u8]) -> Vec<u8> {
        [head(44_100, 2, 16), frames.to_vec()].concat()
    }

    #[test]
    fn the_length_is_that_of_all_frames_rounded_up() {
        assert_eq!(flac_seconds(&stream(&frames(0..10))), Some(1), "40 960 of 44 100");
        assert_eq!(flac_seconds(&stream(&frames(0..11))), Some(2), "45 056");
        assert_eq!(flac_seconds(&stream(&[])), None);
        // The total of STREAMINFO is not believed.
        for total in [0, 1, 0xff] {
            let mut lying = stream(&frames(0..11));
            lying[25] = total;
            assert_eq!(flac_seconds(&lying), Some(2), "{total}");
        }
    }

    #[test]
    fn frames_count_wherever_pieces_of_the_file_end() {
        for before in (0..40).chain(65_440..65_560) {
            let first = closed(header(0, |_| {}), &vec![0x20; before]);
            assert_eq!(flac_seconds(&stream(&[first.clone(), frames(1..11)].concat())), Some(2), "{before}");
            assert_eq!(flac_seconds(&stream(&[first, frames(1..10)].concat())), Some(1), "{before}");
        }
    }

    #[test]
    fn a_row_of_frames_has_no_gap_no_change_and_no_end_before_its_end() {
        let row = frames(0..20);
        let one = frame(0).len();
        assert_eq!(flac_seconds(&stream(&row)), Some(2));
        for cut in 1..2 * one {
            let expected = (cut % one == 0).then_some(2);
            assert_eq!(flac_seconds(&stream(&row[..row.len() - cut])), expected, "{cut}");
        }
        let all = |parts: &[Vec<u8>]| flac_seconds(&stream(&parts.concat()));
        assert_eq!(all(&[frames(0..10), frames(10..20)]), Some(2));
        assert_eq!(all(&[frames(0..10), frames(11..20)]), None, "one is missing");
        assert_eq!(all(&[frames(0..10), frames(0..10)]), None, "the same once more");
        assert_eq!(all(&[frames(1..20)]), None, "the first is missing");
        assert_eq!(all(&[vec![0x20], frames(0..20)]), None, "something before it");
        assert_eq!(all(&[frames(0..10), vec![0x20], frames(10..20)]), None, "something between");
        assert_eq!(all(&[frames(0..20), vec![0x20]]), None, "something behind");
        let mut broken = row.clone();
        broken[7 * one + 8] ^= 1;
        assert_eq!(all(&[broken]), None, "a wrong checksum");
        type Change = fn(&mut Vec<u8>);
        let changes: [(&str, Change, Option<u32>); 8] = [
            ("nothing", |_| {}, Some(2)),
            ("its channels as middle and side", |header| header[3] = 0xa0, Some(2)),
            ("its bits written out", |header| header[3] = 0x18, Some(2)),
            ("a short block", |header| header[2] = 0x19, Some(2)),
            ("another rate", |header| header[2] = 0xca, None),
            ("other channels", |header| header[3] = 0x00, None),
            ("other bits", |header| header[3] = 0x1c, None),
            ("blocks of any size", |header| header[1] = 0xf9, None),
        ];
        for (name, change, expected) in changes {
            let other = closed(header(10, change), &[0x55; 5]);
            assert_eq!(all(&[frames(0..10), other, frames(11..20)]), expected, "{name}");
        }
    }

    #[test]
    fn each_way_to_write_a_header_counts() {
        type Change = fn(&mut Vec<u8>);
        let of = |rate: u32, channels: u8, seconds: u32, change: Change| {
            let row: Vec<u8> = (0..100).flat_map(|number| closed(header(number, change), &[0x55; 5])).collect();
            let measured = flac_seconds(&[head(rate, channels, 16), row].concat());
            assert_eq!(measured, Some(seconds), "{rate} {channels}");
        };
        of(44_100, 2, 10, |_| {});
        of(44_100, 2, 10, |header| header[2] = 0xc0);
        of(48_000, 2, 9, |header| header[2] = 0xca);
        of(48_000, 2, 9, |header| {
            header[2] = 0xcc;
            header.push(48);
        });
        of(44_100, 2, 10, |header| {
            header[2] = 0xcd;
            header.extend(44_100_u16.to_be_bytes());
        });
        of(44_100, 2, 10, |header| {
            header[2] = 0xce;
            header.extend(4410_u16.to_be_bytes());
        });
        of(44_100, 2, 1, |header| {
            header[2] = 0x69;
            header.push(0xff);
        });
        of(44_100, 2, 149, |header| {
            header[2] = 0x79;
            header.extend([0xff, 0xff]);
        });
        of(44_100, 1, 10, |header| header[3] = 0x00);
        of(44_100, 8, 38, |header| header[3] = 0x70);
        // Of any size, with the numbers of samples, of two bytes where they need them.
        let row: Vec<u8> = (0..11_u16)
            .flat_map(|place| {
                let [high, low] = (place * 144).to_be_bytes();
                let number = [0xe0, 0x80 | high << 2 | low >> 6, 0x80 | low & 0x3f];
                closed(
                    header(0, |header| {
                        header[1] = 0xf9;
                        header[2] = 0x69;
                        header.splice(4..5, number).for_each(drop);
                        header.push(143);
                    }),
                    &[0x55; 5],
                )
            })
            .collect();
        assert_eq!(flac_seconds(&stream(&row)), Some(1));
    }

    #[test]
    fn what_looks_like_a_header_is_one_by_chance_only_far_from_others() {
        // The last frames are calm, as those in front of it.
        let with = |inside: Vec<u8>| {
            let middle = closed(header(10, |_| {}), &[&[0x20; 9][..], &inside, &[0x20; 9]].concat());
            flac_seconds(&stream(&[frames(0..10), middle, frames(11..20)].concat()))
        };
        assert_eq!(with(vec![]), Some(2));
        assert_eq!(with(header(100, |_| {})), Some(2), "86 016 numbers with those of it");
        assert_eq!(with(header(100, |header| header[3] = 0x00)), Some(4), "spread over one channel");
        assert_eq!(with(header(100, |header| header[3] = 0x70)), Some(3), "eight channels spread over two");
        assert_eq!(with(header(100, |header| header[2] = 0xc4)), Some(11), "at 8000 a second");
        assert_eq!(
            with(header(100, |header| {
                header[2] = 0xcd;
                header.extend(44_101_u16.to_be_bytes());
            })),
            None
        );
        let other_bits = header(100, |header| {
            header[2] = 0xcd;
            header[3] = 0x1c;
            header.extend(44_101_u16.to_be_bytes());
        });
        assert_eq!(with(other_bits), Some(2), "ffmpeg refuses its bits before it takes its rate");
        for near in [3, 9, 10, 11, 18] {
            assert_eq!(with(header(near, |_| {})), None, "{near} beside 10");
        }
        assert_eq!(
            with(header(0, |header| {
                header[2] = 0x69;
                header.push(9);
            })),
            None,
            "a block of 10 from 0"
        );
        assert_eq!(with([header(100, |_| {}), header(60, |_| {})].concat()), None, "two");
        let stray =
            |number: u8| closed(header(number, |_| {}), &[&[0x20; 9][..], &header(100, |_| {}), &[0x20; 9]].concat());
        let at = |places: &[u8]| {
            flac_seconds(&stream(
                &(0..20)
                    .flat_map(|number| if places.contains(&number) { stray(number) } else { frame(number) })
                    .collect::<Vec<_>>(),
            ))
        };
        assert_eq!((at(&[5, 9]), at(&[5, 8])), (Some(3), None), "not closer than ffmpeg compares");
        assert_eq!((at(&[15]), at(&[16])), (Some(2), None), "nor so near the end");
        let broken = |change: fn(&mut Vec<u8>)| header(100, change);
        type Change = fn(&mut Vec<u8>);
        let ill: [(&str, Change); 8] = [
            ("no size", |header| header[2] = 0x09),
            ("no rate", |header| header[2] = 0xcf),
            ("no such channels", |header| header[3] = 0xb0),
            ("no such bits", |header| header[3] = 0x16),
            ("a bit that is 0", |header| header[3] = 0x11),
            ("another mark", |header| header[1] = 0xfa),
            ("no number", |header| header[4] = 0x80),
            ("a number that is cut", |header| header.splice(4..5, [0xc4, 0x00]).for_each(drop)),
        ];
        for (name, change) in ill {
            let twice = [broken(change), broken(change)].concat();
            assert_eq!(with(twice), Some(2), "{name}: no header at all");
        }
        let mut wrong = header(11, |_| {});
        wrong[5] ^= 1;
        assert_eq!(with(wrong), Some(2), "a wrong checksum");
    }

    #[test]
    fn only_a_stream_of_which_every_reader_is_sure_is_measured() {
        let row = frames(0..11);
        let sure = stream(&row);
        assert_eq!(flac_seconds(&sure), Some(2));
        for (at, value, why) in [
            (0, b'F', "mark"),
            (4, 0x81, "another block first"),
            (4, 0x00, "no frames behind the blocks"),
            (7, 33, "its length"),
            (8, 0, "blocks of 0"),
            (10, 0x0f, "the largest below the least"),
            (20, 0xff, "rate"),
        ] {
            let mut unsure = sure.clone();
            unsure[at] = value;
            assert_eq!(flac_seconds(&unsure), None, "{why}");
        }
        for rate in [0, 7999, 44_101, 384_000, 655_350] {
            assert_eq!(flac_seconds(&[head(rate, 2, 16), row.clone()].concat()), None, "{rate}");
        }
        for cut in 0..42 {
            assert_eq!(flac_seconds(&sure[..cut]), None, "{cut}");
        }
        let mut open = head(44_100, 2, 16);
        open[4] = 0;
        let tags = |last: u8, bytes: u8| [vec![last | 4, 0, 0, bytes], vec![0xff; bytes.into()]].concat();
        let behind = |blocks: &[Vec<u8>]| flac_seconds(&[open.clone(), blocks.concat(), row.clone()].concat());
        assert_eq!(behind(&[tags(0, 7), tags(0x80, 0)]), Some(2));
        assert_eq!(behind(&[tags(0, 7), tags(0, 0)]), None, "none is the last");
        let many = vec![tags(0, 0); 998].concat();
        assert_eq!(behind(&[many.clone(), tags(0x80, 0)]), Some(2));
        assert_eq!(behind(&[many, tags(0, 0), tags(0x80, 0)]), None);
    }

    #[test]
    fn no_bytes_make_the_reader_panic_and_each_place_counts_once() {
        let mut number = numbers();
        let mut measured = 0;
        for _ in 0..3000 {
            let mut bytes = stream(&frames(0..9));
            for _ in 0..number(4) {
                let at = number(bytes.len());
                match number(3) {
                    0 => bytes[at] = [0xff, 0xf8, 0xc9, 0x10, 0, byte(&mut number)][number(6)],
                    1 => bytes.splice(at..at, header(byte(&mut number), |_| {})).for_each(drop),
                    _ => bytes.truncate(at + 1),
                }
            }
            let places = u32::try_from(bytes.len()).unwrap();
            let seconds = flac_seconds(&bytes);
            assert!(seconds.is_none_or(|seconds| seconds <= places * 65_536 * 8 / 8000));
            measured += u32::from(seconds.is_some());
        }
        assert!((300..2900).contains(&measured), "{measured}");
    }
}

#[test]
fn what_nobody_can_be_sure_of_has_no_length() {
    let mp3 = [&[0xff, 0xfb, 0x90, 0x64][..], &[0; 413]].concat().repeat(10);
    for (kind, bytes) in [
        (ContentKind::Mp3, mp3.as_slice()),
        (ContentKind::Ogg, b"OggS"),
        (ContentKind::M4a, b"\0\0\0\x20ftypM4A "),
        (ContentKind::Webm, b"\x1a\x45\xdf\xa3\x42\x82\x84webm"),
    ] {
        let length = bytes.len() as u64;
        assert_eq!(seconds(&mut Cursor::new(bytes), kind, length).unwrap(), None, "{kind:?}");
    }
}

#[test]
fn a_length_beyond_every_number_is_none() {
    let samples = |each| Samples { each, all: each, rate: 8000 };
    assert_eq!(samples(8000 * u64::from(u32::MAX)).seconds(), Some(u32::MAX));
    assert_eq!(samples(8000 * u64::from(u32::MAX) + 1).seconds(), None);
}

/// For comparison with a real loader: of each file in the folder that `SOUND_FOLDER` names, `NAME.decoded` says how many seconds were decoded of it. Prints the bounds.
#[test]
fn no_loader_decodes_more_of_the_files_of_a_folder() {
    let Some(folder) = std::env::var_os("SOUND_FOLDER") else { return };
    let (mut compared, mut measured) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let decoded = format!("{}.decoded", path.display());
        let Ok(decoded) = std::fs::read_to_string(decoded) else { continue };
        let decoded: f64 = decoded.trim().parse().unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        compared += 1;
        let Ok(facts) = super::super::read(&mut file, length) else { continue };
        let Some(bound) = facts.seconds else { continue };
        measured += 1;
        println!("{}\t{bound}\t{decoded}", path.display());
        assert!(decoded <= f64::from(bound), "{}: {decoded} s of at most {bound}", path.display());
    }
    println!("{compared} files, {measured} of them measured");
    assert!(measured > 0);
}
