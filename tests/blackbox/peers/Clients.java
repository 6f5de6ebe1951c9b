// Netty clients that speak the services' protocols with Netty's own codecs.
// Arguments: host, port, and echo, framed or message.

import io.netty.bootstrap.Bootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelPipeline;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.DelimiterBasedFrameDecoder;
import io.netty.handler.codec.LengthFieldBasedFrameDecoder;
import io.netty.handler.codec.LengthFieldPrepender;
import java.io.ByteArrayOutputStream;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

class Clients {
    static final int CLIENTS = 20;
    static final int FRAME_MAX = 2 << 20;
    static final int[] SIZES = {1, 1023, 1024, 1025, 16384, 1000000};
    static final ByteBuf MARK = Unpooled.copiedBuffer("<EOF>", StandardCharsets.US_ASCII);

    // Expects these messages, in order. A stream is one message that comes in any pieces.
    static class Expect extends SimpleChannelInboundHandler<ByteBuf> {
        final List<byte[]> messages;
        final boolean isStream;
        final boolean serverCloses;
        final CompletableFuture<Void> done = new CompletableFuture<>();
        int number;
        int offset;

        Expect(List<byte[]> messages, boolean isStream, boolean serverCloses) {
            this.messages = messages;
            this.isStream = isStream;
            this.serverCloses = serverCloses;
        }

        @Override
        protected void channelRead0(ChannelHandlerContext context, ByteBuf received) {
            if (number == messages.size()) {
                throw new IllegalStateException(received.readableBytes() + " bytes too many");
            }
            byte[] expected = messages.get(number);
            int count = received.readableBytes();
            ByteBuf part = Unpooled.wrappedBuffer(expected, offset, Math.min(count, expected.length - offset));
            if (!part.equals(received) || !isStream && count != expected.length) {
                throw new IllegalStateException("message " + number + " differs after " + offset);
            }
            offset += count;
            if (offset == expected.length) {
                offset = 0;
                number++;
            }
            if (number == messages.size() && !serverCloses) {
                done.complete(null);
            }
        }

        @Override
        public void channelInactive(ChannelHandlerContext context) {
            if (number == messages.size()) {
                done.complete(null);
            } else {
                done.completeExceptionally(new IllegalStateException("closed before message " + number));
            }
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext context, Throwable cause) {
            done.completeExceptionally(cause);
            context.close();
        }
    }

    static byte[] payload(int client, int size) {
        byte[] bytes = new byte[size];
        new Random(client * 1000003L + size).nextBytes(bytes);
        return bytes;
    }

    static void codecs(String service, ChannelPipeline pipeline) {
        if (service.equals("framed")) {
            pipeline.addLast(new LengthFieldBasedFrameDecoder(ByteOrder.LITTLE_ENDIAN, FRAME_MAX, 0, 4, 0, 4, true));
            pipeline.addLast(new LengthFieldPrepender(ByteOrder.LITTLE_ENDIAN, 4, 0, false));
        } else if (service.equals("message")) {
            pipeline.addLast(new DelimiterBasedFrameDecoder(FRAME_MAX, false, MARK));
        }
    }

    static Expect start(EventLoopGroup group, String host, int port, String service, List<byte[]> messages)
            throws Exception {
        Expect expect = new Expect(messages, service.equals("echo"), service.equals("message"));
        Bootstrap bootstrap = new Bootstrap().group(group).channel(NioSocketChannel.class);
        bootstrap.handler(new ChannelInitializer<SocketChannel>() {
            @Override
            protected void initChannel(SocketChannel channel) {
                codecs(service, channel.pipeline());
                channel.pipeline().addLast(expect);
            }
        });
        Channel channel = bootstrap.connect(host, port).sync().channel();
        for (byte[] message : messages) {
            channel.write(Unpooled.wrappedBuffer(message));
        }
        channel.flush();
        return expect;
    }

    public static void main(String[] args) throws Exception {
        String host = args[0];
        int port = Integer.parseInt(args[1]);
        String service = args[2];
        EventLoopGroup group = new NioEventLoopGroup(2);
        List<Expect> all = new ArrayList<>();
        for (int client = 0; client < CLIENTS; client++) {
            List<byte[]> messages = new ArrayList<>();
            for (int size : SIZES) {
                if (service.equals("message")) {
                    // The server closes after each message.
                    String text = "ünïcode ".repeat(Math.min(size, 16000) / 9) + client + "<EOF>";
                    all.add(start(group, host, port, service, List.of(text.getBytes(StandardCharsets.UTF_8))));
                } else {
                    messages.add(payload(client, size));
                }
            }
            if (service.equals("echo")) {
                ByteArrayOutputStream stream = new ByteArrayOutputStream();
                for (byte[] message : messages) {
                    stream.write(message);
                }
                messages = List.of(stream.toByteArray());
            }
            if (!service.equals("message")) {
                all.add(start(group, host, port, service, messages));
            }
        }
        try {
            for (Expect expect : all) {
                expect.done.get(60, TimeUnit.SECONDS);
            }
            System.out.println("done");
        } finally {
            group.shutdownGracefully(0, 1, TimeUnit.SECONDS).sync();
        }
    }
}
