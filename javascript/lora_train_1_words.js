// The page in Japanese: English words -> Japanese ones. Words that are missing here stay English.
(function () {
    "use strict";

    window.loraTrain.words.ja = {
        // goals, presets and groups, as the server names them
        "Character": "キャラクター", "Style": "画風", "Object or concept": "物・概念", "Slider": "スライダー", "Edit concept": "概念の編集",
        "One person, animal or figure, in any clothes, place and style.": "一人の人物・動物・キャラクター。服装、場所、画風は問いません。",
        "How pictures look, whatever is on them.": "何が描かれていても変わらない絵の見た目。",
        "A thing, a dress, a pose, a place.": "物、衣装、ポーズ、場所など。",
        "More or less of a quality, by the strength. Learned from words, without pictures.": "強度で性質を強めたり弱めたりします。画像なしで、言葉から学習します。",
        "Take a concept out of the model, or put another in its place. Learned from words, without pictures.": "モデルから概念を消す、または別の概念に置き換えます。画像なしで、言葉から学習します。",
        "Prompt": "プロンプト", "What to do": "すること", "With this (empty: the prompt)": "これで（空欄: プロンプトそのもの）", "More of": "増やすもの", "Less of": "減らすもの",
        "Fast": "高速", "Balanced": "標準", "Thorough": "じっくり",
        "Half the steps and half the rank: to see whether pictures and captions are right.": "ステップ数とランクが半分。画像とキャプションの確認に。",
        "What works for most prompts, and sets of 10 to 50 pictures.": "たいていのプロンプトと、10〜50枚の画像でうまくいく設定。", "Steps": "ステップ数",
        "Twice the steps and the rank, more files to choose from.": "ステップ数とランクが2倍。選べるファイルも増えます。",
        "Data": "データ", "Captions": "キャプション", "Sizes and buckets": "サイズとバケット", "Prompts to learn from": "学習に使うプロンプト", "Pairs of pictures": "画像のペア", "Augmentation": "データ拡張",
        "Embedding": "埋め込み", "Dreambooth": "Dreambooth",
        "Masks": "マスク", "Validation": "検証", "validation": "検証",
        "Regularisation": "正則化", "Network": "ネットワーク", "Network by block": "ブロック別ネットワーク", "Noise and loss": "ノイズと損失",
        "Length": "学習の長さ", "Learning rates": "学習率", "Optimizer": "オプティマイザ", "Memory and speed": "メモリと速度",
        "Samples": "サンプル", "Output": "出力", "Card of the file": "ファイルの説明", "Log": "ログ", "Hugging Face": "Hugging Face",
        "degrees": "度", "epochs": "エポック", "pixels": "px", "steps": "ステップ", "tags": "タグ", "minutes": "分",
        "running": "学習中", "paused": "一時停止中", "waiting": "待機中", "done": "完了", "stopped": "停止", "failed": "失敗", "unfinished": "未完了",

        // rooms
        "Rooms": "画面", "Train": "学習", "Evaluate": "評価", "Tools": "ツール",

        // forms of declared settings
        "More settings": "その他の設定",

        // tools
        "Search": "検索", "and {n} more; type a part of the name": "ほか {n} 件。名前の一部を入力してください", "There is none here; type its path.": "ここにはありません。パスを入力してください。",
        "folder": "フォルダ", "Choose a file": "ファイルを選ぶ", "The loaded one": "読み込み中のもの", "No checkpoint is loaded.": "チェックポイントが読み込まれていません。", "path of another file": "追加するファイルのパス", "Choose a tool": "ツールを選ぶ",
        "A browser does not say where {name} lies; type its path.": "ブラウザーは {name} の場所を伝えません。パスを入力してください。",
        "This browser does not let a page copy; the text is: {text}": "このブラウザーではコピーできません。文字列: {text}",
        "Copied: {text}": "コピーしました: {text}", "Copy": "コピー", "In words": "文章で", "rank {rank}, alpha {alpha}: {layers} layers": "ランク {rank}、alpha {alpha}: {layers} 層",
        "Holds": "中身", "Damaged": "壊れた層", "{n} layers add nothing": "{n} 層は何も加えません", "Norm of what is added, by block": "加える量のノルム（ブロック別）", "Ranks": "ランク",
        "Fits": "合うモデルと読めるソフト", "Every layer": "すべての層", "They depend on the checkpoint; give it as base.": "チェックポイント次第です。base に指定してください。",
        "no such layer there": "その層がない", "of another shape there": "形が違う", "{n} of {of}": "{n} / {of}", "all": "すべて", "read by, or fits": "モデル・ソフト",
        "layers": "層", "why not": "理由", "Trained on": "学習に使ったもの", "The file does not say what it was trained on.": "何で学習したかは書かれていません。",
        "A click copies the tag.": "クリックでタグをコピーします。", "Buckets": "バケット", "{pictures} pictures, {repeats} times": "{pictures} 枚 × {repeats} 回",
        "Tokens moved most: {part}": "最も動かすトークン: {part}", "as stated": "記載どおり", "the file states {stated}": "ファイルの記載は {stated}", "Train like this": "同じ設定で学習",
        "field": "項目", "value": "値", "layer": "層", "form": "形式", "rank": "ランク", "alpha": "alpha", "norm": "ノルム", "share": "割合",
        "Edit these": "これを編集", "{n} changed": "変更 {n} 件", "New entry": "新しい項目", "Its value": "その値", "Give the new entry a name, such as modelspec.author.": "modelspec.author のような項目名を入れてください。",
        "Save into the file": "ファイルに保存", "Write what is changed ({n}) into {file}? Its weights stay as they are.": "{file} に {n} 件の変更を書き込みますか？重みは変わりません。",
        "Yes, save": "はい、保存", "Nothing is changed.": "変更はありません。", "The file says nothing of itself.": "メタデータはありません。",
        "rank {ranks}": "ランク {ranks}", "{n} layers": "{n} 層", "What comes of it:": "できるもの:", "at most {size}": "最大 {size}", "about {size}": "約 {size}",
        "Will be written: {path}": "書き出すファイル: {path}", "Will be replaced: {path}": "上書きするファイル: {path}",
        "{path} is there already: take another name, or set overwrite": "{path} はすでにあります。別の名前にするか、overwrite をオンにしてください",
        "Clear": "クリア", "Run it": "実行", "Runs when nothing trains.": "学習中は実行できません。", "layer {done} of {of}": "{of} 層中 {done} 層", "in {time}": "所要時間 {time}", "working": "実行中",

        // the model
        "v-prediction": "v予測", "ε-prediction": "ε予測", "{free} of {total} free": "空き {free} / {total}", "zero-terminal SNR": "ゼロ終端SNR",
        "VAE": "VAE", "built in": "内蔵", "No model is loaded yet.": "モデルがまだ読み込まれていません。",
        "model unchanged: yes": "モデルは元のまま: はい", "the model was changed; load it again": "モデルが変わりました。読み込み直してください",

        // the form
        "What do you want to teach?": "何を覚えさせますか？", "own settings": "独自の設定", "Preset": "プリセット", "Model": "モデル",
        "Pictures": "画像フォルダ", "Name": "名前", "Trigger word": "トリガーワード", "Epochs": "エポック数", "or steps": "またはステップ数",
        "Size": "サイズ", "Rank": "ランク", "Learning rate": "学習率", "Train the text encoder": "テキストエンコーダーも学習する",
        "Preset: save, share, import": "プリセットの保存・共有・読み込み", "Save as…": "名前を付けて保存…", "Share": "共有",
        "Import…": "読み込む…", "Name of the preset": "プリセットの名前", "Save": "保存", "Close": "閉じる", "Delete": "削除",
        "Delete the preset {name}?": "プリセット {name} を削除しますか？", "Yes, delete": "削除する", "No": "いいえ",
        "{name} is imported.": "{name} を読み込みました。", "comes to {n}": "= {n}", "read as": "トークン:", "free words:": "空いている語:",
        "the one that is loaded": "読み込み中のモデル", "Choose…": "選ぶ…", "Choose a folder": "フォルダを選ぶ", "Use this folder": "このフォルダを使う", "{n} pictures here": "ここに画像 {n} 枚",
        "Put 10 to 50 pictures into one folder. What a picture shows may stand beside it, in a text file of the same name:":
            "10〜50枚の画像を1つのフォルダに入れてください。何が写っているかは、同じ名前のテキストファイルに書いておけます:",
        "To see how it goes, try the 28 drawings that come along:": "まず試すなら、付属の絵28枚をどうぞ:", "Fill in the demo": "デモを入力する",

        // all settings
        "All settings": "すべての設定", "All settings ({n})": "すべての設定（{n}）", "changed from the preset: {n}": "プリセットからの変更: {n}",
        "Search, such as rank or noise": "検索（例: rank、ノイズ）", "Search the settings": "設定を検索", "only what differs": "変更したものだけ",
        "Nothing has this name. Try another word.": "見つかりません。別の語で試してください。", "differs from the preset": "プリセットと異なります",
        "Reset": "元に戻す", "no effect:": "無効:", "preset {value}:": "プリセット {value}:", "belongs to {are}; {of} is {kind}": "{are} の設定です（{of} は {kind}）",
        "{low} to {high}": "{low}〜{high}", "{low} or more": "{low} 以上", "up to {high}": "{high} 以下", "default {value}": "既定値 {value}",
        "empty": "空", "on": "オン", "off": "オフ",

        // the plan
        "{pictures} pictures × {repeats} repeats → {buckets} → {each} steps an epoch × {epochs} = {steps} steps":
            "画像 {pictures} 枚 × {repeats} 回 → {buckets} → 1エポック {each} ステップ × {epochs} = {steps} ステップ",
        "1 bucket": "バケット 1 個", "{n} buckets": "バケット {n} 個", "{n} images seen": "のべ {n} 枚", "saves: {n}": "保存 {n} 回", "samples: {n}": "サンプル {n} 回",
        "{n} on disk, {free} free": "ディスク {n}（空き {free}）", "about {time}": "約 {time}", "peak {memory}": "最大 {memory}",
        "measured step: {n} s": "1ステップの実測 {n} 秒", "Time and memory are not known yet for these settings.": "この設定での時間とメモリはまだ測っていません。",
        "Measure": "測る", "Two steps are made to measure; this takes a moment …": "2ステップ動かして測っています…",
        "Makes two steps at the largest size; nothing is written.": "最大サイズで2ステップだけ動かします。何も書き込みません。",
        "Looking at pictures and settings …": "画像と設定を確認しています…", "Add to queue": "キューに追加", "Start training": "学習を始める", "Save changes": "変更を保存", "Cancel": "取り消す",

        // a run
        "Run": "学習", "Progress": "進み具合", "step {step} of {steps}": "ステップ {step} / {steps}", "epoch {epoch} of {epochs}": "エポック {epoch} / {epochs}",
        "{time} left": "残り {time}", "{time} so far": "経過 {time}", "{n} images/s": "{n} 枚/秒", "loss {n}": "損失 {n}", "rates: {rates}": "学習率: {rates}",
        "memory before {before} · during {during} · after {after}": "メモリ 前 {before} · 学習中 {during} · 後 {after}",
        "Pause": "一時停止", "Continue": "続ける", "Stop & save": "保存して停止", "Stop": "停止", "Yes, stop": "停止する",
        "Stop at step {step} without saving?": "ステップ {step} で保存せずに停止しますか？", "Sample now": "今サンプルを描く", "Save now": "今保存する",
        "Gives the model back between two steps: generate, then go on exactly.": "ステップの間でモデルを返します。画像を生成してから、そのまま続けられます。",
        "Settings of this run": "この学習の設定", "The curve begins with the first steps.": "最初のステップからグラフが描かれます。",
        "step": "ステップ", "loss": "損失", "smoothed": "平滑化", "learning rate": "学習率",
        "Beside the loss": "損失と並べる値", "gradient norm": "勾配ノルム", "weight norm": "重みノルム", "weight norm, average": "重みノルム（平均）",
        "weight norm, largest": "重みノルム（最大）", "layers scaled down": "抑えられた層の数", "memory": "メモリ", "nothing": "なし",
        "Loss at step {step}: {loss}, smoothed {average}": "ステップ {step} の損失 {loss}、平滑化 {average}",
        "before the first step": "学習前", "Step of the sample": "サンプルのステップ", "Prompts": "プロンプト", "prompt {n}": "プロンプト {n}", "step {step}": "ステップ {step}",
        "with the LoRA": "LoRAあり", "same seed, without the LoRA": "同じシード、LoRAなし", "How it was drawn": "生成パラメータ",
        "Send to txt2img": "txt2imgへ送る", "Samples appear here as they are drawn.": "サンプルはここに表示されます。",
        "The txt2img tab is not there.": "txt2imgタブがありません。",

        // the end, the queue and earlier runs
        "{name} is finished": "{name} の学習が完了しました", "{name} was stopped": "{name} を停止しました",
        "{name} was stopped and saved": "{name} を停止し、保存しました", "{name} failed": "{name} は失敗しました",
        "Strength grid": "強度の比較表", "Compare files": "ファイルの比較表", "Sheet": "比較表", "Open in full size": "原寸で開く",
        "Drawing picture {n} of {of} …": "{of} 枚中 {n} 枚目を描いています…", "Stopped; nothing was drawn to its end.": "停止しました。完成した表はありません。",
        "Try in txt2img": "txt2imgで試す", "Open folder": "フォルダを開く", "The path is copied: {folder}": "パスをコピーしました: {folder}",
        "{name} stopped at step {step} of {steps} before it was finished.": "{name} はステップ {step} / {steps} で中断されています。",
        "Resume": "再開", "Keep what is there": "今あるものを残す", "Discard": "破棄", "Delete what the run has written?": "書き出したファイルを削除しますか？",
        "Queue": "キュー", "Nothing waits. “Add to queue” puts a job here; jobs run one after the other.": "待機中の学習はありません。「キューに追加」したものが順に実行されます。",
        "Start": "開始", "Edit": "編集", "Up": "上へ", "Down": "下へ", "Duplicate": "複製", "Remove": "外す",
        "Earlier runs": "これまでの学習", "Use its settings": "設定を使う", "Train it further": "続けて学習", "No run has ended yet.": "まだ終わった学習はありません。",
        "Clear caches ({size})": "キャッシュを消す（{size}）", "They are made again when needed.": "必要になれば作り直されます。",
        "Clear states ({size})": "途中状態を消す（{size}）", "Without them it cannot be resumed.": "消すと再開できなくなります。",
        "Delete this run and its files?": "この学習とファイルを削除しますか？", "Prepare the next one": "次の学習を準備する", "Training": "トレーニング",

        "Optional packages": "追加パッケージ", "Add": "追加", "not installed": "未導入", "installed: {version}": "導入済み: {version}",
        "Nothing of the WebUI's own packages is changed, and each can be taken out again.": "WebUI本体のパッケージは変わりません。それぞれ後で取り外せます。",
        "pip is at work; this can take some minutes …": "pipを実行しています。数分かかることがあります…",

        "Relora": "再スタート（ReLoRA）",

        // the page
        "One moment …": "少々お待ちください…", "Try again": "もう一度", "The server answered {status}.": "サーバーの応答: {status}",
        "The server does not answer. Look at its window; this page goes on by itself when it is back.": "サーバーが応答しません。コンソールを確認してください。復帰すればこのページは自動で続きます。",
        // what a run's records tell
        "What its records tell": "記録からわかること", "Loss by timestep": "タイムステップ別の損失", "Pictures by loss": "損失の大きい画像",
        "The mean at each span of timesteps, from little noise to much; half of all samples lie in the shade. Two more lines are of the run's first and second half.": "タイムステップの範囲ごとの平均です（左はノイズが少なく、右は多い）。塗った幅に半分のサンプルが入ります。残りの2本は学習の前半と後半です。",
        "The highest first: a wrong caption, or a picture that does not belong, is often among them. The number says how much its loss is against what is usual at the timesteps it was seen at, and how sure that is.": "損失の大きい順です。キャプションの誤りや、混ざった別の画像は、よく上位に出ます。数値は、見たタイムステップでの普通の損失に対する比と、その確かさです。",
        "How much each block's adapters add to the model over the run, all on one scale, and the last value: what learns, and what stands still.": "各ブロックのアダプターがモデルに加える量の推移（同じ目盛り）と最後の値です。学習しているブロックと、止まっているブロックがわかります。",
        "Norms by block": "ブロック別のノルム", "Compare runs": "学習を比べる", "Runs to compare with": "比べる学習", "setting": "設定",
        "Choose other runs: their smoothed losses, their losses by timestep, and the settings that differ.": "他の学習を選ぶと、平滑化した損失、タイムステップ別の損失、違う設定を並べます。",
        "mean": "平均", "a quarter is above": "上位4分の1", "a quarter is below": "下位4分の1", "first half": "前半", "second half": "後半", "timestep": "タイムステップ",
        "Show more": "もっと見る", "Show {n} of {total}": "{total} 枚中 {n} 枚を表示", "seen {n} times": "{n} 回学習", "regularisation": "正則化画像", "no caption": "キャプションなし",
        "Smoothed losses of {names}": "{names} の平滑化した損失", "Losses by timestep of {names}": "{names} のタイムステップ別の損失",
        "lowest validation loss {loss} at step {step}": "検証損失の最小値 {loss}（{step} ステップ）", "Their settings are the same.": "設定は同じです。",
        "The first steps are still to come.": "まだ最初のステップの前です。",
        "Learning rate over the run, at most {n}": "学習率の推移（最大 {n}）",
    };
})();
