//! Tests of the thread that writes the log, on pipes.

use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::sync::mpsc;

use rustix::fs::{OFlags, fcntl_setfl};

use super::super::log_format::LogFormat;
use super::*;

const STYLE: LineStyle =
    LineStyle { format: LogFormat::Text, colours: env_logger::WriteStyle::Never };

/// Reads to the line "end". Returns how many lines arrived, and how many were lost according to the
/// lines.
fn read_to_end(from: PipeReader) -> (u64, u64) {
    let (mut shown, mut lost) = (0, 0);
    for line in BufReader::new(from).lines().map(Result::unwrap).take_while(|line| line != "end") {
        match line.split_once("WARN  echopool::log] lines_lost=") {
            Some((_, text)) => lost += text.split(':').next().unwrap().parse::<u64>().unwrap(),
            None => shown += 1,
        }
    }
    (shown, lost)
}

#[test]
fn what_does_not_fit_is_dropped_and_counted_also_without_blocking_writes() {
    for flags in [OFlags::empty(), OFlags::NONBLOCK] {
        let (reader, out) = pipe().unwrap();
        fcntl_setfl(&out, flags).unwrap();
        let mut log = LogWriter::start(out, STYLE, None).unwrap();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let lines = 4 * QUEUE_BYTES as u64 / 100;
        for _ in 0..lines {
            log.write_all(&line).unwrap();
        }
        let read = thread::spawn(|| read_to_end(reader));
        log.flush(Duration::from_secs(60));
        log.write_all(b"end\n").unwrap();
        let (shown, lost) = read.join().unwrap();
        assert!(shown >= QUEUE_BYTES as u64 / 100 && lost > 0, "{shown} shown, {lost} lost");
        assert_eq!(shown + lost, lines);
    }
}

#[test]
fn a_flush_waits_for_what_is_queued_and_not_longer_than_its_limit() {
    let (mut reader, out) = pipe().unwrap();
    let mut log = LogWriter::start(out, STYLE, None).unwrap();
    log.write_all(b"last words\n").unwrap();
    log.flush(Duration::from_secs(60));
    let mut words = [0; 11];
    fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    reader.read_exact(&mut words).expect("written before the flush returned");
    log.write_all(&[b'\n'; QUEUE_BYTES]).unwrap();
    // Returns, although nobody reads.
    log.flush(Duration::from_millis(10));
}

#[test]
fn a_flush_waits_for_what_the_thread_has_taken_and_not_written() {
    let (_reader, out) = pipe().unwrap();
    let mut log = LogWriter::start(out, STYLE, None).unwrap();
    // More than a pipe holds, so the thread cannot write all of it.
    log.write_all(&[b'\n'; QUEUE_BYTES]).unwrap();
    while !log.0.lock().lines.is_empty() {
        thread::yield_now();
    }
    let begun = Instant::now();
    log.flush(Duration::from_millis(50));
    assert!(begun.elapsed() >= Duration::from_millis(50), "{:?}", begun.elapsed());
}

#[test]
fn the_queue_is_full_at_its_capacity_and_has_its_memory_from_the_start() {
    let lines = empty_queue().unwrap();
    assert!(lines.is_empty() && lines.capacity() >= QUEUE_BYTES);
    let state = Mutex::new(LineQueue { lines, dropped: 0, report_at: None, idle: false });
    let (limit, filled, emptied) = (Limit::new(None), Condvar::new(), Condvar::new());
    let queue = Queue { limit, state, filled, emptied };
    queue.push(&[b'\n'; QUEUE_BYTES]);
    queue.push(b"one\ntwo\n");
    let state = queue.lock();
    assert_eq!((state.lines.len(), state.dropped), (QUEUE_BYTES, 2));
}

/// Writes these lines to a pipe that does not block and whose reader is closed once it is full.
/// Returns the bytes that were written, the lines that were lost, and whether one was torn.
fn written_until_the_reader_is_gone(lines: Vec<u8>) -> (u64, u64, bool) {
    let (reader, out) = pipe().unwrap();
    fcntl_setfl(&out, OFlags::NONBLOCK).unwrap();
    let writes = thread::spawn(move || {
        let mut out = Output::new(out);
        out.write_lines(&lines);
        (out.lost, out.torn)
    });
    // The first write fills it.
    let written = loop {
        match rustix::io::ioctl_fionread(&reader).unwrap() {
            0 => thread::yield_now(),
            bytes => break bytes,
        }
    };
    drop(reader);
    let (lost, torn) = writes.join().unwrap();
    (written, lost, torn)
}

#[test]
fn a_line_is_torn_if_its_begin_was_written_and_its_end_was_not() {
    const BYTES: usize = 1 << 20;
    let long = [&[b'x'; BYTES][..], b"\n"].concat();
    let (written, lost, torn) = written_until_the_reader_is_gone(long);
    assert!((1..BYTES as u64).contains(&written) && torn && lost == 1, "{written} {lost} {torn}");
    let (written, lost, torn) = written_until_the_reader_is_gone(vec![b'\n'; BYTES]);
    assert!(!torn && lost == BYTES as u64 - written, "{written} {lost} {torn}");
}

#[test]
fn a_thread_that_waits_for_standard_error_does_not_spin() {
    const WAIT: Duration = Duration::from_millis(300);
    let (mut reader, out) = pipe().unwrap();
    fcntl_setfl(&out, OFlags::NONBLOCK).unwrap();
    let writes = thread::spawn(move || {
        Output::new(out).write_lines(&[b'\n'; 1 << 20]);
        rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
    });
    thread::sleep(WAIT);
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    let used = writes.join().unwrap();
    assert!(Duration::try_from(used).unwrap() < WAIT / 2, "{used:?} of CPU time");
}

/// `lines_not_shown=N of level LEVEL` in each of these lines.
fn not_shown(lines: &str) -> Vec<(u64, &str)> {
    let texts = lines.lines().map(|line| {
        let (_, text) = line.split_once("WARN  echopool::log] lines_not_shown=").expect(line);
        let (count, level) = text.split_once(" of level ").expect(line);
        (count.parse().expect(line), level.split(':').next().unwrap())
    });
    texts.collect()
}

#[test]
fn lines_over_the_limit_are_counted_when_their_second_ends_although_nothing_else_is_logged() {
    let (reader, out) = pipe().unwrap();
    let log = LogWriter::start(out, STYLE, Some(10)).unwrap();
    let shown = (0..1_000).filter(|_| log.admits(Level::Info)).count() as u64;
    assert!((10..1_000).contains(&shown), "{shown} shown");
    let (sender, lines) = mpsc::channel();
    let lines_of = BufReader::new(reader).lines();
    thread::spawn(move || lines_of.for_each(|line| drop(sender.send(line.unwrap()))));
    let mut hidden = 0;
    while hidden < 1_000 - shown {
        let line = lines.recv_timeout(Duration::from_secs(60)).expect("a line without another");
        let [(more, "INFO")] = not_shown(&line)[..] else { panic!("{line}") };
        hidden += more;
    }
    assert_eq!(hidden, 1_000 - shown);
}

#[test]
fn the_limit_and_the_filter_of_a_log_can_be_changed() {
    let (_reader, out) = pipe().unwrap();
    let log = LogWriter::start(out, STYLE, None).unwrap();
    let is_reached = || {
        // Of each second, so that the next one does not come in between.
        for _ in 0..5 {
            let _ = log.admits(Level::Info);
        }
        log.is_reached(Level::Info)
    };
    assert!(!is_reached());
    log.set_limit(Some(1));
    assert!((0..100).any(|_| is_reached()));
    log.set_text_filter(true);
    assert!(!(0..100).any(|_| is_reached()), "other lines may still be shown");
    log.set_text_filter(false);
    log.set_limit(None);
    assert!(!is_reached());
}

#[test]
fn a_flush_reports_lines_over_the_limit_at_once() {
    let (mut reader, out) = pipe().unwrap();
    let log = LogWriter::start(out, STYLE, Some(1)).unwrap();
    let shown = (0..5).filter(|_| log.admits(Level::Warn)).count() as u64;
    log.flush(Duration::from_secs(60));
    fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    let mut text = vec![0; 4096];
    let len = reader.read(&mut text).expect("written before the flush returned");
    let text = String::from_utf8_lossy(&text[..len]);
    let hidden: u64 = not_shown(&text).iter().map(|&(count, _)| count).sum();
    assert_eq!(shown + hidden, 5, "{text}");
}

#[test]
fn refused_lines_are_counted_and_told_with_the_next_that_is_written() {
    let path = std::env::temp_dir().join(format!("echopool-torn-{}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    if cfg!(target_os = "linux") {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut out = Output::new(full);
        out.write_lines(b"one\ntwo\n");
        out.report_lost(STYLE);
        assert_eq!((out.lost, out.accepts), (2, false));
    }
    // The last line was cut off, so the next one begins on a line of its own.
    let mut out = Output { lost: 2, accepts: false, torn: true, ..Output::new(file) };
    out.write_lines(b"three\n");
    out.report_lost(STYLE);
    assert_eq!((out.lost, out.torn), (0, false));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(text.starts_with("\nthree\n[") && text.contains("lines_lost=2:"), "{text:?}");
}

#[test]
fn chunks_are_whole_lines() {
    assert_eq!(chunk_len(b"a\nb\n"), 4);
    let long = [&[b'x'; WRITE_BYTES][..], b"\na\n"].concat();
    assert_eq!(chunk_len(&long), WRITE_BYTES + 1);
    let two = [&b"a\n"[..], &[b'x'; WRITE_BYTES], b"\n"].concat();
    assert_eq!(chunk_len(&two), 2);
}
