<?php
// The receiver of docs/webhooks.md under Laravel. argv: the file with the receiver; standard input: requests as JSON,
// [{"body": …, "signature": …}]; output: the status of each answer, and the rows of the table `online` after it.

use Illuminate\Config\Repository;
use Illuminate\Database\Capsule\Manager;
use Illuminate\Filesystem\FilesystemServiceProvider;
use Illuminate\Foundation\Application;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Facade;
use Illuminate\View\ViewServiceProvider;
use Symfony\Component\HttpKernel\Exception\HttpExceptionInterface;

error_reporting(E_ALL & ~E_DEPRECATED);
require 'Illuminate/autoload.php';

$app = new Application(sys_get_temp_dir());
Facade::setFacadeApplication($app);
$app->instance('config', new Repository([
    'broadcasting' => ['connections' => ['pusher' => ['secret' => 'app-secret']]],
    'view' => ['paths' => [], 'compiled' => sys_get_temp_dir()],
]));
$app->register(FilesystemServiceProvider::class);
$app->register(ViewServiceProvider::class);
$database = new Manager($app);
$database->addConnection(['driver' => 'sqlite', 'database' => ':memory:']);
$app->instance('db', $database->getDatabaseManager());
$database->getConnection()->statement('create table online (channel text, user_id text)');

require $argv[1];

$answers = [];
foreach (json_decode(stream_get_contents(STDIN), true) as ['body' => $body, 'signature' => $signature]) {
    $headers = ['CONTENT_TYPE' => 'application/json', 'HTTP_X_PUSHER_SIGNATURE' => $signature];
    $request = Request::create('/gema', 'POST', [], [], [], $headers, $body);
    $app->instance('request', $request);
    try {
        $status = $app['router']->dispatch($request)->getStatusCode();
    } catch (HttpExceptionInterface $refused) {
        $status = $refused->getStatusCode();
    }
    $answers[] = ['status' => $status, 'online' => $database->getConnection()->table('online')->get()];
}
echo json_encode($answers);
