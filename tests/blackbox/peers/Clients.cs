// The client of "How To Use the SocketAsyncEventArgs Class", written anew: connect, send and receive
// with one SocketAsyncEventArgs each. Arguments: host, port, and echo, framed or message.

using System;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Threading;

class Client : IDisposable {
    static readonly TimeSpan Guard = TimeSpan.FromSeconds(60);

    readonly Socket socket;
    readonly SocketAsyncEventArgs sending = new SocketAsyncEventArgs();
    readonly SocketAsyncEventArgs receiving = new SocketAsyncEventArgs();
    readonly AutoResetEvent sent = new AutoResetEvent(false);
    readonly AutoResetEvent received = new AutoResetEvent(false);

    public Client(IPEndPoint to) {
        socket = new Socket(to.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        sending.Completed += (_, __) => sent.Set();
        receiving.Completed += (_, __) => received.Set();
        receiving.SetBuffer(new byte[1 << 16], 0, 1 << 16);
        sending.RemoteEndPoint = to;
        Finish(socket.ConnectAsync(sending), sending, sent);
    }

    // False from an operation means that it has completed, without an event.
    static void Finish(bool isPending, SocketAsyncEventArgs args, WaitHandle done) {
        if (isPending && !done.WaitOne(Guard)) throw new TimeoutException(args.LastOperation.ToString());
        if (args.SocketError != SocketError.Success) throw new SocketException((int)args.SocketError);
    }

    // Sends while the caller receives, because a server stops reading from a client that does not read.
    Thread StartSend(byte[] data) {
        var thread = new Thread(() => {
            for (int at = 0; at < data.Length; at += sending.BytesTransferred) {
                sending.SetBuffer(data, at, data.Length - at);
                Finish(socket.SendAsync(sending), sending, sent);
            }
        });
        thread.Start();
        return thread;
    }

    // At most this many bytes, and fewer only if the server has closed the connection.
    byte[] Receive(int count) {
        var data = new byte[count];
        for (int at = 0; at < count; at += receiving.BytesTransferred) {
            receiving.SetBuffer(0, Math.Min(receiving.Buffer.Length, count - at));
            Finish(socket.ReceiveAsync(receiving), receiving, received);
            if (receiving.BytesTransferred == 0) return data.Take(at).ToArray();
            Buffer.BlockCopy(receiving.Buffer, 0, data, at, receiving.BytesTransferred);
        }
        return data;
    }

    // Sends this and receives as much, which must be the same.
    public void SendReceive(byte[] data) {
        var thread = StartSend(data);
        Check(data, Receive(data.Length));
        thread.Join();
    }

    // As SendReceive; then the server must close the connection.
    public void SendReceiveToEnd(byte[] data) {
        SendReceive(data);
        Check(new byte[0], Receive(1));
    }

    static void Check(byte[] expected, byte[] actual) {
        if (!expected.SequenceEqual(actual)) {
            throw new Exception(expected.Length + " bytes expected, " + actual.Length + " others received");
        }
    }

    public void Dispose() {
        socket.Close();
        sending.Dispose();
        receiving.Dispose();
    }
}

static class Program {
    static readonly int[] Sizes = { 1, 1023, 1024, 1025, 16384, 1000000 };

    static byte[] Payload(int client, int size) {
        var payload = new byte[size];
        new Random(client * 1000003 + size).NextBytes(payload);
        return payload;
    }

    static byte[] Frame(byte[] payload) {
        var length = BitConverter.GetBytes(payload.Length);
        if (!BitConverter.IsLittleEndian) Array.Reverse(length);
        return length.Concat(payload).ToArray();
    }

    static byte[] Message(int client, int size) {
        var text = new string((char)('a' + client % 26), size);
        return Encoding.UTF8.GetBytes("ünïcode " + text + "<EOF>");
    }

    static void Talk(IPEndPoint to, string service, int number) {
        if (service == "message") {
            foreach (var size in Sizes.Where(size => size <= 16384)) {
                using (var client = new Client(to)) client.SendReceiveToEnd(Message(number, size));
            }
            return;
        }
        using (var client = new Client(to)) {
            foreach (var size in Sizes) {
                var payload = Payload(number, size);
                client.SendReceive(service == "framed" ? Frame(payload) : payload);
            }
            // Many at once come back in order.
            var small = Enumerable.Range(0, 500).Select(nth => Payload(nth, nth % 50));
            client.SendReceive(small.SelectMany(one => service == "framed" ? Frame(one) : one).ToArray());
        }
    }

    static void Main(string[] args) {
        var to = new IPEndPoint(IPAddress.Parse(args[0]), int.Parse(args[1]));
        var failed = 0;
        var threads = Enumerable.Range(0, 20).Select(number => new Thread(() => {
            try {
                Talk(to, args[2], number);
            } catch (Exception error) {
                Interlocked.Increment(ref failed);
                Console.Error.WriteLine("client {0}: {1}", number, error);
            }
        })).ToList();
        threads.ForEach(thread => thread.Start());
        threads.ForEach(thread => thread.Join());
        if (failed > 0) Environment.Exit(1);
        Console.WriteLine("done");
    }
}
