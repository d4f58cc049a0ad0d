// First message from Node.js, over the plain protos and nothing else.
//
//   chatmesh protos ./protos                    # writes the public .proto files out
//   export TOKEN=$(chatmesh token alice)
//   node first_message.js 127.0.0.1:7030 bob "hello from Node"
//
// It opens a session, sends one message, waits for its result and for its own entry, acks it, and
// leaves. 64-bit numbers are read as strings: JavaScript's numbers end at 2^53.
import crypto from "node:crypto";
import fs from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [target, toUser, text] = process.argv.slice(2);
if (!target || !toUser || !text || !process.env.TOKEN) {
  console.error("usage: TOKEN=<jwt> node first_message.js HOST:PORT USER TEXT");
  process.exit(2);
}

const protos = process.env.PROTOS ?? "./protos";
if (!fs.existsSync(protos)) {
  console.error(`no ${protos}: write the public .proto files there by: chatmesh protos ${protos}`);
  process.exit(2);
}
const definition = loader.loadSync("chatmesh/v1/session.proto", {
  includeDirs: [protos],
  longs: String,
  arrays: true, // fields that are absent read as []
  enums: String,
});
const { ChatService } = grpc.loadPackageDefinition(definition).chatmesh.v1;

// RFC 9562, section 5.7: 48 bits of milliseconds, version 7, variant 2, the rest random.
function uuidv7(ms) {
  const key = crypto.randomBytes(16);
  key.writeUIntBE(ms, 0, 6);
  key[6] = (key[6] & 0x0f) | 0x70;
  key[8] = (key[8] & 0x3f) | 0x80;
  return key;
}

const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.TOKEN}`);
const client = new ChatService(target, grpc.credentials.createInsecure());
const session = client.Session(metadata);

let sent; // positions of our message, once the server has stored it
let stored = 0n; // highest timeline_seq that we have "stored"

function leaveWhenDone() {
  if (!sent || stored < BigInt(sent.timelineSeq)) return;
  console.log(JSON.stringify(sent));
  sent = undefined; // said once; frames may still follow
  session.end();
}

session.on("data", (frame) => {
  for (const welcome of frame.welcome) {
    const message = {
      idempotencyKey: uuidv7(Number(welcome.serverTimeMs)),
      toUserId: toUser,
      content: { text: { body: text } },
    };
    session.write({ send: { messages: [message] } });
  }
  for (const entry of frame.entries) {
    // A real client stores the entry first; only then it acks.
    session.write({ ack: { upToTimelineSeq: entry.timelineSeq } });
    stored = BigInt(entry.timelineSeq);
  }
  for (const { problem, messageId, conversationSeq, timelineSeq } of frame.sendResults) {
    if (problem) {
      console.error(`refused: ${problem.reason}: ${problem.message}`);
      process.exit(1);
    }
    sent = { messageId, conversationSeq, timelineSeq };
  }
  leaveWhenDone();
});
session.on("error", (error) => {
  console.error(`${error.code} ${error.details}`);
  process.exit(1);
});
session.on("end", () => client.close());
session.write({ hello: { deviceId: "node-example", deviceKind: "DEVICE_KIND_BOT", start: "START_HEAD" } });
