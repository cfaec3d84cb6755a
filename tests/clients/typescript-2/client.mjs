// SPDX-License-Identifier: Apache-2.0
// The TypeScript SDK 2.x: node client.mjs URL, or node client.mjs COMMAND ARGUMENT...
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { converse } from "./conversation.mjs";

const [place, ...args] = process.argv.slice(2);
const isHttp = place.startsWith("http://");
const client = new Client({ name: "typescript-2", version: "1" });
await client.connect(
  isHttp
    ? new StreamableHTTPClientTransport(new URL(place))
    : new StdioClientTransport({ command: place, args, env: process.env, stderr: "ignore" }),
);
await converse(client, isHttp);
await client.close();
process.exit(0);
