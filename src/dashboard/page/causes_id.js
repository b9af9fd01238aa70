// Kalimat di atas halaman, dan sebab penolakan dengan langkahnya. Tanpa terjemahan, halaman memakai kata-kata server.

/** @type {Record<string, string | undefined>} */
export const glances = {
	all_well: 'Semua baik: {nodes} node, {connections} halaman tersambung, {events} event/detik.',
	buffer_full: 'Redis terputus selama {seconds}. Penyangga penuh, jadi pengirim ditolak sampai Redis kembali.',
	server_full: 'Node ini penuh: {connections} dari {max} koneksi. Halaman berikutnya ditolak.',
	store_away: 'Database aplikasi tidak menjawab. Aplikasi yang sedang dipakai tetap jalan; yang lain tidak bisa tersambung.',
	redis_away: 'Redis terputus selama {seconds}. Event tidak sampai ke node lain; belum ada yang hilang (penyangga terpakai {percent} %).',
	nodes_lost: '{lost} dari {nodes} node tidak melapor lagi: {names}.',
	drops: '{drops} event/detik tidak sampai ke halamannya, karena halaman membaca terlalu lambat.',
	error: 'Harus ditangani: {sentence}.',
	draining: 'Node ini sedang berhenti: masih ada {connections} koneksi.',
	nearly_full: 'Node ini hampir penuh: {connections} dari {max} koneksi.',
	webhooks_waiting: 'Webhook tidak sampai: {waiting} event menunggu.',
	refusals: '{count} penolakan dalam semenit terakhir, terbanyak: {sentence}.',
};

/** @type {Record<string, string[] | undefined>} */
export const causes = {
	tls_on_plain_port: ['klien memakai TLS ke port tanpa TLS', 'pasang PUSHER_SCHEME=http atau forceTLS: false di sana, atau tls.cert_path di sini'],
	plain_on_tls_port: ['klien tidak memakai TLS, padahal port ini memerlukannya', 'pakai https:// dan wss:// di sana'],
	no_upgrade: ['permintaan WebSocket bukan upgrade', 'biarkan proxy meneruskan header Upgrade dan Connection lewat HTTP/1.1'],
	connect_path: ['WebSocket menuju path yang tidak ada', 'pakai /app/KEY; wsPath di pusher-js adalah bagian sebelum /app'],
	connect_unknown_key: ['koneksi memakai key yang tidak dimiliki aplikasi mana pun', 'pakai key salah satu aplikasi, atau tambahkan ke apps.keys'],
	app_id_as_key: ['klien memakai id aplikasi, seharusnya key', 'isi halaman dengan PUSHER_APP_KEY, bukan PUSHER_APP_ID'],
	connect_origin: ['koneksi datang dari halaman dengan asal lain', 'tambahkan asalnya ke allowed_origins aplikasi'],
	connect_server_full: ['koneksi server sudah penuh', 'naikkan connections.connections_max, atau batas berkas terbuka'],
	connect_app_full: ['koneksi aplikasi sudah penuh', 'naikkan max_connections aplikasi'],
	address_connections: ['satu alamat sudah punya koneksi sebanyak yang boleh', 'naikkan connections.per_address_max; di belakang proxy isi server.trusted_proxies'],
	slow_reader: ['klien terlalu lama tidak mengambil kirimannya', 'periksa jaringannya, atau naikkan connections.slow_seconds'],
	subscribe_no_auth: ['langganan channel privat tanpa tanda tangan', 'biarkan klien memintanya ke aplikasi: authEndpoint di pusher-js'],
	subscribe_unknown_key: ['langganan ditandatangani untuk key aplikasi lain', 'samakan key di halaman dan aplikasi: PUSHER_APP_KEY'],
	subscribe_signature: ['tanda tangan langganan salah', 'isi aplikasi dengan secret yang benar: PUSHER_APP_SECRET'],
	subscribe_forbidden: ['aturan channel melarang langganan', 'ikuti channel yang disebut di rincian, atau ubah channel_rules'],
	client_events_disabled: ['client event dimatikan untuk aplikasi ini', 'aktifkan enable_client_messages aplikasi'],
	client_event_rate: ['koneksi mengirim client event terlalu cepat', 'naikkan max_client_events_per_second'],
	api_unknown_app: ['permintaan untuk aplikasi yang tidak ada', 'pakai id salah satu aplikasi: PUSHER_APP_ID'],
	api_unknown_key: ['permintaan memakai key yang bukan milik aplikasinya', 'isi id dan key dari aplikasi yang sama: PUSHER_APP_ID, PUSHER_APP_KEY'],
	api_signature: ['tanda tangan permintaan salah', 'isi aplikasi dengan secret yang benar: PUSHER_APP_SECRET'],
	api_expired: ['waktu permintaan terlalu jauh dari waktu server', 'samakan kedua jam; lihat http.timestamp_tolerance_seconds'],
	api_forbidden: ['aturan channel melarang event', 'pakai channel yang disebut di rincian, atau ubah channel_rules'],
	api_event_rate: ['aplikasi mengirim terlalu cepat', 'naikkan max_backend_events_per_second'],
};
