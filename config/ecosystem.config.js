// PM2: pm2 start ecosystem.config.js
module.exports = {
  apps: [
    {
      name: 'gema',
      script: '/usr/local/bin/gema',
      args: 'start --config=/etc/gema/gema.toml',
      interpreter: 'none', // a program, not JavaScript
      exec_mode: 'fork', // it uses all cores by itself
      instances: 1,
      autorestart: true,
      kill_timeout: 30_000, // more than server.drain_seconds; PM2's own 1.6 s would cut the connections
      env: {
        NODE_ENV: 'production',
        PUSHER_APP_ID: 'my-app',
        PUSHER_APP_KEY: 'my-key',
        PUSHER_APP_SECRET: 'my-secret',
      },
    },
  ],
};
