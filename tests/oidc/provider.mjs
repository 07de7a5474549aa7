// An identity provider for tests: `oidc-provider` (certified OpenID Connect) on loopback over plain HTTP, with accounts that need no password.
//
//   node provider.mjs --packages DIRECTORY --port 4444 --client-id gate --client-secret SECRET --redirect-uri https://HOST/gate/oidc/callback
//       --post-logout-uri https://HOST/gate/logout --user ada:acme --user bob:bravo --token-seconds 20 --keys one
//
// Each `--user NAME:TENANT` may log in: the form wants the name as `login`, and any password. TENANT becomes the claim `org_id`. `--keys WORD` draws signing keys under that word as `kid`:
// another word at the next start is a rotation. Without `--client-secret` the client is public. Port 0: the system chooses.
// When it listens it prints one line of JSON: {"issuer", "port", "process"}. It ends with its standard input, or by SIGTERM.
// POST /test/revoke forgets every grant, as an account does that is closed. GET /test/renewals tells how often a refresh token was used.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { values: given } = parseArgs({
  options: {
    packages: { type: 'string' },
    port: { type: 'string', default: '0' },
    issuer: { type: 'string' },
    'client-id': { type: 'string', default: 'gate' },
    'client-secret': { type: 'string' },
    'redirect-uri': { type: 'string', multiple: true, default: [] },
    'post-logout-uri': { type: 'string', multiple: true, default: [] },
    user: { type: 'string', multiple: true, default: ['ada:acme'] },
    'token-seconds': { type: 'string', default: '3600' },
    'code-seconds': { type: 'string', default: '60' },
    keys: { type: 'string', default: 'one' },
  },
});
const require = createRequire(join(given.packages, 'npm', 'package.json'));
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const users = new Map(given.user.map((entry) => entry.split(':')));
const seconds = Number(given['token-seconds']);
const jwk = (type, options, extra) => ({ ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...extra });
const server = createServer();
await new Promise((listening) => server.listen(Number(given.port), '127.0.0.1', listening));
const { port } = server.address();
const issuer = given.issuer ?? `http://127.0.0.1:${port}`;
// Kept in memory, as the accounts are: a restart forgets sessions and grants.
const grants = new Set();

const provider = new Provider(issuer, {
  clients: [{
    client_id: given['client-id'],
    client_secret: given['client-secret'],
    token_endpoint_auth_method: given['client-secret'] ? 'client_secret_basic' : 'none',
    redirect_uris: given['redirect-uri'],
    post_logout_redirect_uris: given['post-logout-uri'],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    id_token_signed_response_alg: 'RS256',
  }],
  jwks: { keys: [jwk('rsa', { modulusLength: 2048 }, { kid: `${given.keys}-rs`, alg: 'RS256' })] },
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub'], profile: ['name', 'org_id'], email: ['email', 'email_verified'] },
  // What the scopes say is in the ID token, and not at the user info endpoint only.
  conformIdTokenClaims: false,
  findAccount: (_, id) => users.has(id) && {
    accountId: id,
    claims: () => ({ sub: id, name: id, org_id: users.get(id), email: `${id}@example.com`, email_verified: true }),
  },
  // As a first-party service does: a refresh token for whoever asks, and nobody is asked for consent.
  issueRefreshToken: async (_, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  loadExistingGrant: async (ctx) => {
    // One grant for a browser: with another one, the refresh tokens of the first would end.
    const known = await ctx.oidc.provider.Grant.find(ctx.oidc.session.grantIdFor(ctx.oidc.client.clientId) ?? '');
    if (known) return known;
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope('openid profile email offline_access');
    await grant.save();
    grants.add(grant.jti);
    return grant;
  },
  ttl: { AccessToken: seconds, IdToken: seconds, AuthorizationCode: Number(given['code-seconds']), RefreshToken: 86400, Grant: 86400, Session: 86400, Interaction: 600 },
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
  pkce: { required: () => true },
});

let renewals = 0;
provider.on('grant.success', (ctx) => { renewals += ctx.oidc.params.grant_type === 'refresh_token' ? 1 : 0; });
const answering = provider.callback();
server.on('request', async (request, response) => {
  if (request.method === 'POST' && request.url === '/test/revoke') {
    for (const id of grants) {
      const grant = await provider.Grant.find(id);
      await Promise.all(['AccessToken', 'RefreshToken', 'AuthorizationCode'].map((model) => provider[model].revokeByGrantId(id)));
      await grant?.destroy();
    }
    grants.clear();
    response.writeHead(204).end();
    return;
  }
  if (request.url === '/test/renewals') {
    response.end(String(renewals));
    return;
  }
  answering(request, response);
});
console.log(JSON.stringify({ issuer, port, process: process.pid }));
process.stdin.on('end', () => process.exit(0)).resume();
