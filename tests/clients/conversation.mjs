// SPDX-License-Identifier: Apache-2.0
// What each TypeScript client does: see conversation.py.
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export async function converse(client, isHttp) {
  const call = async (name, args = {}) => {
    const result = await client.callTool({ name, arguments: args });
    if (result.isError) throw new Error(JSON.stringify(result.content));
    return result.structuredContent;
  };
  const made = await call("create_environment", { runtime: "shell", name: "from a client" });
  const id = { environment_id: made.environment_id };
  const listed = await call("list_environments");
  if (isHttp) {
    console.log("restart the server");
    await lines.next();
  }
  const got = await call("get_environment", id);
  const lived = await call("environment_history", id);
  const destroyed = await call("destroy_environment", id);
  const ended = await call("environment_history", id);
  console.log(JSON.stringify({ made, listed, got, lived, destroyed, ended }));
}
