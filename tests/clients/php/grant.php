<?php
// The group view of docs/laravel.md under Laravel: its provider and its route, in the files of argv. Standard input: a
// request to /broadcasting/auth as JSON, {"socket_id": …, "channel_name": …}; output: the answer.

namespace Pusher {
    /** As much of pusher-php-server as signs channels. */
    class Pusher
    {
        public function __construct(private $key, private $secret) {}

        public function authorizeChannel($channel, $socketId, $data = null)
        {
            $signed = implode(':', array_filter([$socketId, $channel, $data]));
            $auth = $this->key.':'.hash_hmac('sha256', $signed, $this->secret);

            return json_encode(array_filter(['auth' => $auth, 'channel_data' => $data]));
        }

        public function socket_auth($channel, $socketId)
        {
            return $this->authorizeChannel($channel, $socketId);
        }
    }
}

namespace {
    use Illuminate\Broadcasting\BroadcastManager;
    use Illuminate\Config\Repository;
    use Illuminate\Contracts\Broadcasting\Factory;
    use Illuminate\Foundation\Application;
    use Illuminate\Http\Request;
    use Illuminate\Support\Facades\Facade;

    error_reporting(E_ALL & ~E_DEPRECATED);
    require 'Illuminate/autoload.php';

    /** A model of the application. */
    class Clinic
    {
        public static function whereGroup($group)
        {
            return collect([['code' => "{$group}001"], ['code' => "{$group}002"]]);
        }
    }

    ['app' => $pusher, 'request' => $fields] = json_decode(stream_get_contents(STDIN), true);
    $app = new Application(sys_get_temp_dir());
    Facade::setFacadeApplication($app);
    $connection = ['driver' => 'pusher', 'app_id' => $pusher['id'], 'key' => $pusher['key'], 'secret' => $pusher['secret']];
    $app->instance('config', new Repository([
        'broadcasting' => ['default' => 'pusher', 'connections' => ['pusher' => $connection]],
    ]));
    $manager = new BroadcastManager($app);
    $app->instance(Factory::class, $manager);
    foreach (array_slice($argv, 1) as $file) {
        require $file;
    }

    $request = Request::create('/broadcasting/auth', 'POST', $fields);
    $request->setUserResolver(fn () => (object) ['group' => 'K']);
    try {
        echo json_encode($manager->auth($request));
    } catch (Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException) {
        echo 'null';
    }
}
