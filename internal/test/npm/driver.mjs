// One MCP client of the official TypeScript SDK, driven from outside: it reads a JSON
// command a line and answers each with a JSON line, so that a test can be the user
// who signs in.
//
//   node driver.mjs v1|v2 URL [legacy|auto [IDENTITY]]
//
// IDENTITY says in JSON what the client is, if it does not register: {"document": URL of
// its metadata} or {"client": id of a configured client}; with a "key", a private JWK, it
// authenticates by private_key_jwt.
//
//   {"do":"connect"}                              {"result":{...}}
//   {"do":"call","tool":"echo","arguments":{}}    {"authorize":"https://..."}: the user must go there;
//       "times":5 makes that many at once             then "finish", then the same command again
//   {"do":"tools"}                                {"error":{"name":"...","message":"..."}}
//   {"do":"finish","back":"http://..."}
import { createInterface } from 'node:readline';

const [version, target, era = 'legacy', identity = '{}'] = process.argv.slice(2);
const { document, client: configured, key } = JSON.parse(identity);

const v1 = version === 'v1';
const parts = v1 ? ['index', 'streamableHttp', 'auth', 'auth-extensions'].map(file => `@modelcontextprotocol/sdk/client/${file}.js`) : ['@modelcontextprotocol/client'];
const sdk = Object.assign({}, ...await Promise.all(parts.map(part => import(part))));

const redirectURI = 'http://127.0.0.1:9/callback'; // no process listens there: the test reads the redirect itself
const kept = {};
const keep = name => value => { kept[name] = value; };
const provider = {
  redirectUrl: redirectURI,
  clientMetadata: {
    client_name: `TypeScript SDK ${version}`,
    redirect_uris: [redirectURI],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  state: () => crypto.randomUUID(),
  clientInformation: () => kept.client ?? (configured && { client_id: configured, issuer: new URL(target).origin }),
  saveClientInformation: keep('client'),
  tokens: () => kept.tokens,
  saveTokens: keep('tokens'),
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: keep('verifier'),
  discoveryState: () => kept.discovery, // v2 compares `iss` with it
  saveDiscoveryState: keep('discovery'),
  redirectToAuthorization: keep('authorize'),
  // Without this the SDKs would go on with credentials that the server has disowned.
  invalidateCredentials: what => {
    for (const name of what === 'all' ? ['client', 'tokens', 'verifier', 'discovery'] : [what]) delete kept[name];
  },
};

if (document) provider.clientMetadataUrl = document;
if (key) {
  const id = document ?? configured;
  provider.addClientAuthentication = sdk.createPrivateKeyJwtAuth({ issuer: id, subject: id, privateKey: key, alg: key.alg });
}

let client, transport;

const commands = {
  async connect() {
    transport = new sdk.StreamableHTTPClientTransport(new URL(target), { authProvider: provider });
    client = new sdk.Client({ name: 'driver', version: '1' }, v1 ? {} : { versionNegotiation: { mode: era } });
    await client.connect(transport);
    return { server: client.getServerVersion() };
  },
  async finish({ back }) {
    const query = new URL(back).searchParams;
    await transport.finishAuth(v1 ? query.get('code') : query);
    return {};
  },
  async call({ tool, arguments: args = {}, times = 1 }) {
    const calls = Array.from({ length: times }, () => client.callTool({ name: tool, arguments: args }));
    await Promise.allSettled(calls); // all of them, also after one has failed
    const results = await Promise.all(calls);
    return results.length === 1 ? results[0] : results;
  },
  tools: () => client.listTools(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  delete kept.authorize;
  try {
    answer = { result: await commands[command.do](command) };
  } catch (e) {
    answer = kept.authorize && e instanceof sdk.UnauthorizedError
      ? { authorize: kept.authorize.href }
      : { error: { name: e.constructor.name, message: String(e.message), code: e.code } };
  }
  console.log(JSON.stringify(answer));
}
process.exit(0);
