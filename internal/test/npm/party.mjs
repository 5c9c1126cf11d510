// One OpenID Connect client, of the libraries openid-client or oauth4webapi, driven from
// outside like driver.mjs. Every check that a library has is on: the issuer in the answer,
// state and nonce, the id token with its signature. Only plain HTTP is allowed, because
// the server under test is on loopback.
//
//   node party.mjs openid-client|oauth4webapi ISSUER
//
//   {"do":"register","metadata":{}}                       {"result":{...}}
//   {"do":"configure","client":"ID","key":{a JWK}}        {"error":{"name":"...","message":"...","code":"..."}}
//   {"do":"machine","client":"ID","secret":"...","scope":"...","resource":"..."}  client_credentials; with "key" by a key
//   {"do":"authorize","scope":"...","resource":"..."}     the result is the URL that the user must open
//   {"do":"finish","back":"http://..."}                   the result is the claims of the id token
//   {"do":"refresh"}  {"do":"userinfo"}  {"do":"introspect","token":"access_token"}  {"do":"revoke"}
import { createInterface } from 'node:readline';
import * as oidc from 'openid-client';
import * as oauth from 'oauth4webapi';
import { importJWK } from 'jose';

const [library, issuer] = process.argv.slice(2);
const redirectURI = 'http://127.0.0.1:9/callback';
const insecure = { [oauth.allowInsecureRequests]: true };
const secretMethods = { client_secret_basic: 'ClientSecretBasic', client_secret_post: 'ClientSecretPost' };

let tokens, flow;

const keyOf = async jwk => ({ key: await importJWK(jwk, jwk.alg), kid: jwk.kid });
const authentication = (lib, { token_endpoint_auth_method: method, client_secret: secret }) =>
  secretMethods[method] ? lib[secretMethods[method]](secret) : lib.None();
const start = lib => { flow = { verifier: lib.randomPKCECodeVerifier?.() ?? lib.generateRandomCodeVerifier(), state: (lib.randomState ?? lib.generateRandomState)(), nonce: (lib.randomNonce ?? lib.generateRandomNonce)() }; };
const request = async (lib, scope, resource) => ({
  response_type: 'code', redirect_uri: redirectURI, scope, resource, state: flow.state, nonce: flow.nonce,
  code_challenge: await lib.calculatePKCECodeChallenge(flow.verifier), code_challenge_method: 'S256',
});

let config; // of openid-client
const strict = c => { config = c; oidc.allowInsecureRequests(c); oidc.enableNonRepudiationChecks(c); };
const openidClient = {
  async register({ metadata }) {
    const execute = [oidc.allowInsecureRequests];
    const made = await oidc.dynamicClientRegistration(new URL(issuer), metadata, undefined, { execute });
    const client = made.clientMetadata();
    strict(new oidc.Configuration(made.serverMetadata(), client.client_id, client, authentication(oidc, client)));
    return client;
  },
  async configure({ client, key }) {
    const execute = [oidc.allowInsecureRequests];
    strict(await oidc.discovery(new URL(issuer), client, undefined, oidc.PrivateKeyJwt(await keyOf(key)), { execute }));
    return {};
  },
  async machine({ client, secret, key, scope, resource }) {
    const execute = [oidc.allowInsecureRequests];
    const method = key ? oidc.PrivateKeyJwt(await keyOf(key)) : oidc.ClientSecretBasic(secret);
    strict(await oidc.discovery(new URL(issuer), client, undefined, method, { execute }));
    tokens = await oidc.clientCredentialsGrant(config, { scope, resource });
    return tokens;
  },
  async authorize({ scope, resource }) {
    start(oidc);
    return oidc.buildAuthorizationUrl(config, await request(oidc, scope, resource)).href;
  },
  async finish({ back }) {
    tokens = await oidc.authorizationCodeGrant(config, new URL(back), {
      pkceCodeVerifier: flow.verifier, expectedState: flow.state, expectedNonce: flow.nonce, idTokenExpected: true,
    });
    return tokens.claims();
  },
  async refresh() {
    tokens = { ...tokens, ...await oidc.refreshTokenGrant(config, tokens.refresh_token) };
    return { scope: tokens.scope, access_token: tokens.access_token };
  },
  userinfo: ({ subject }) => oidc.fetchUserInfo(config, tokens.access_token, subject),
  introspect: ({ token }) => oidc.tokenIntrospection(config, tokens[token]),
  async revoke() {
    await oidc.tokenRevocation(config, tokens.refresh_token ?? tokens.access_token);
    return {};
  },
};

let as, client, auth; // of oauth4webapi
const discover = async () => {
  const url = new URL(issuer);
  as = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, insecure));
};
const raw = {
  async register({ metadata }) {
    await discover();
    client = await oauth.processDynamicClientRegistrationResponse(await oauth.dynamicClientRegistrationRequest(as, metadata, insecure));
    auth = authentication(oauth, client);
    return client;
  },
  async configure({ client: id, key }) {
    await discover();
    client = { client_id: id };
    auth = oauth.PrivateKeyJwt(await keyOf(key));
    return {};
  },
  async machine({ client: id, secret, key, scope, resource }) {
    await discover();
    client = { client_id: id };
    auth = key ? oauth.PrivateKeyJwt(await keyOf(key)) : oauth.ClientSecretBasic(secret);
    const response = await oauth.clientCredentialsGrantRequest(as, client, auth, { scope, resource }, insecure);
    tokens = await oauth.processClientCredentialsResponse(as, client, response);
    return tokens;
  },
  async authorize({ scope, resource }) {
    start(oauth);
    const url = new URL(as.authorization_endpoint);
    for (const [name, value] of Object.entries({ client_id: client.client_id, ...await request(oauth, scope, resource) })) url.searchParams.set(name, value);
    return url.href;
  },
  async finish({ back }) {
    const params = oauth.validateAuthResponse(as, client, new URL(back), flow.state);
    const response = await oauth.authorizationCodeGrantRequest(as, client, auth, params, redirectURI, flow.verifier, insecure);
    tokens = await oauth.processAuthorizationCodeResponse(as, client, response, { expectedNonce: flow.nonce, requireIdToken: true });
    await oauth.validateApplicationLevelSignature(as, response, insecure);
    return oauth.getValidatedIdTokenClaims(tokens);
  },
  async refresh() {
    const response = await oauth.refreshTokenGrantRequest(as, client, auth, tokens.refresh_token, insecure);
    tokens = { ...tokens, ...await oauth.processRefreshTokenResponse(as, client, response) };
    if (tokens.id_token) await oauth.validateApplicationLevelSignature(as, response, insecure);
    return { scope: tokens.scope, access_token: tokens.access_token };
  },
  userinfo: async ({ subject }) => oauth.processUserInfoResponse(as, client, subject, await oauth.userInfoRequest(as, client, tokens.access_token, insecure)),
  introspect: async ({ token }) => oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, auth, tokens[token], insecure)),
  async revoke() {
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, tokens.refresh_token ?? tokens.access_token, insecure));
    return {};
  },
};

const commands = { 'openid-client': openidClient, oauth4webapi: raw }[library];
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = { result: await commands[command.do](command) };
  } catch (e) {
    answer = { error: { name: e.constructor.name, message: [e.message, e.error, e.error_description, e.cause?.message].filter(Boolean).join(': '), code: e.error ?? e.code } };
  }
  console.log(JSON.stringify(answer));
}
process.exit(0);
