// The room Evaluate in Japanese: its words, the axes and the settings of a sheet, what the server says of one.
(function () {
    "use strict";

    const ja = window.loraTrain.words.ja;
    Object.assign(ja, {
        // the plan
        "What to draw": "描くもの", "Kind of sheet": "表の種類", "Axes": "軸で比べる", "Blocks, one by one": "ブロックを1つずつ",
        "LoRA files": "LoRAファイル", "Runs, with all their files": "学習（保存したファイル全部）", "Path of a file or folder": "ファイルかフォルダのパス",
        "Leave out {file}": "{file} を外す", "Leave out all": "すべて外す", "Across (X)": "横（X）", "Down (Y)": "縦（Y）", "Sheets (Z)": "表を分ける（Z）",
        "strength": "強度", "files or prompts, where there are several": "複数あればファイルかプロンプト", "what is left": "残ったもの",
        "A training setting…": "学習の設定…", "values": "値", "each value is a run of its own, and its file the cell's": "値ごとに学習し、そのファイルで描きます",
        "Blocks…": "ブロック…", "Add as a value": "値として加える", "Blocks": "ブロック", "Direction": "向き", "Strengths": "強度",
        "all on, one block turned to": "すべてオンで、1つだけ次の強度に", "all off, one block turned to": "すべてオフで、1つだけ次の強度に",
        "one prompt a line; behind it --n negative, --d seed, --s steps, --w and --h size": "1行に1つ。後ろに --n ネガティブ、--d シード、--s ステップ数、--w と --h サイズ",
        "Take that of txt2img": "txt2imgのものを使う", "Draw the sheet": "表を描く", "Write a prompt to draw.": "プロンプトを書いてください。",
        "Choose LoRA files, or a run whose files they are.": "LoRAファイルか、学習を選んでください。",
        "{sizes} = {n} cells": "{sizes} = {n} マス", "{n} cells": "{n} マス", "1 cell": "1 マス", "{n} pictures to draw at most": "描く画像は最大 {n} 枚", "{n} runs to train": "学習 {n} 回",
        "Earlier sheets": "これまでの表", "Open": "開く", "Use its plan": "この設定を使う", "No sheet was drawn yet.": "まだ表はありません。",
        "Delete its pictures, and LoRAs that were trained for it?": "その画像と、そのために学習したLoRAを削除しますか？",
        "It was drawn on the command line, and its plan is not known here.": "コマンドラインで描いた表なので、設定はここではわかりません。",

        "Width": "幅", "Height": "高さ", "Score and suggest": "評価して、すすめる",

        // a sheet
        "drawing": "描画中", "Show it": "見る", "Go on": "続ける", "Change its plan": "設定を変える", "It was not drawn to its end.": "最後まで描かれていません。", "Sheets": "表",
        "Its pictures are shown when it goes on; those that are there are not drawn again.": "続けると画像が表示されます。描き終えたものは描き直しません。",
        "difference to the base picture": "元の画像との差", "Size of the pictures": "画像の大きさ", "Full size and settings": "原寸と生成パラメータ", "suggested": "おすすめ",
        "looks": "見た目の距離", "difference": "差", "changed pixels": "変わった画素", "Scores": "評価", "loss on {of}": "{of}での損失",
        "Lower is better, and 1 as good as without it. What it is of: {of}.": "小さいほど良く、1でLoRAなしと同じです。元にした値: {of}。",
        "How far each block moves the picture, the furthest first: the share of pixels that differ by more than the threshold, and their mean difference.": "各ブロックが画像をどれだけ変えるか、大きい順です。しきい値より大きく変わった画素の割合と、平均の差です。",
        "block": "ブロック", "pictures": "画像", "Labelled sheet": "ラベル付きの表", "Labelled sheet {n}": "ラベル付きの表 {n}", "Heat map as a picture": "ヒートマップの画像",

        "Suggested: the model without a LoRA.": "おすすめ: LoRAなし。", "Suggested: {file} at {strength}.": "おすすめ: {file} を強度 {strength} で。",
        "It is the best of what was measured.": "測った中で最も良い値です。", "At no strength is it better than without it.": "どの強度でも、LoRAなしより良くなりません。",
        "It has learned too much or too fast; train it shorter or slower, or take an earlier file.": "学習しすぎか、速すぎます。学習を短くするか学習率を下げる、または途中のファイルを使ってください。",
        "It still gets better at the highest strength: it has learned too little; train it longer or faster.": "最大の強度でもまだ良くなるので、学習が足りません。学習を長くするか学習率を上げてください。",
        "without a LoRA": "LoRAなし", "{name} {here} (without {bare})": "{name} {here}（なし {bare}）",
        "{name} {here} (at full strength {full}, without {bare})": "{name} {here}（強度1では {full}、なし {bare}）",
        "The loss is of pictures that were learned from, and so it does not see too much of it.": "損失は学習した画像で測ったもので、学習しすぎは表れません。",

        // a cell
        "Cell": "マス", "What is shown": "表示", "this cell": "このマス", "the base picture": "元の画像", "the difference": "差", "The cell before": "前のマス", "The next cell": "次のマス",
        "Copy the prompt": "プロンプトをコピー", "Copied.": "コピーしました。", "Drawn in {time}.": "描画時間 {time}", "{n} s": "{n} 秒",

        // block weights
        "Block weights": "ブロックの重み", "Presets of block weights": "ブロックの重みのプリセット", "Blocks of the U-Net": "U-Netのブロック", "BASE, the text encoder": "BASE（テキストエンコーダー）",
        "These are no plain numbers for 12, 17, 20 or 26 blocks; the bars show them when they are.": "12、17、20、26個の数値ではないので、棒では表示できません。", "Keep as a preset": "プリセットとして残す",

        // axes
        "LoRA file": "LoRAファイル", "Strength": "強度", "TE strength": "テキストエンコーダーの強度", "UNet strength": "UNetの強度", "Block": "ブロック", "Block strength": "ブロックの強度",
        "Negative prompt": "ネガティブプロンプト", "Seed": "シード", "Sampler": "サンプラー", "CFG scale": "CFGスケール", "Start step": "開始ステップ", "Stop step": "終了ステップ",
        "names of files among network_weights, in quotes where there is a comma in one, and none for no LoRA; all of them if not given. Beside a setting of a training: epoch 1, 2, last": "ファイルの名前。コンマを含むものは引用符で囲みます。none はLoRAなし。空欄ならすべて。学習の設定の軸と組むときは epoch 1, 2, last",
        "numbers and spans": "数値か、0-1.2:0.2 のような範囲", "whole numbers and spans": "整数か、1-4:1 のような範囲",
        "presets' names, also of lbwpresets.txt beside the files, or lists with ; between": "プリセット名（ファイルの横の lbwpresets.txt も可）か、; で区切った数値の並び",
        "blocks' ids, IN05-OUT05, NOT IN05-OUT05, or 17ALL for each of them": "ブロック名、IN05-OUT05、NOT IN05-OUT05、17ALL（1つずつ全部）",
        "numbers and spans; of the blocks on the axis block_id": "数値か範囲。ブロックの軸にあるブロックの強度",
        "prompts, one a line or with ; between": "プロンプト。; で区切ります", "texts, one a line or with ; between": "文。; で区切ります",
        "steps of the sampler from which on the LoRA is on": "LoRAを効かせ始めるステップ", "steps of the sampler from which on it is off again": "LoRAを切るステップ",

        // settings of a sheet
        "Put all sheets of z below each other into one.": "Z軸の表を縦に並べて1枚にします。", "Strength where no axis has another.": "軸で指定しないときの強度。",
        "Strength of each block, where no axis has another: a preset's name, also of lbwpresets.txt beside the files, or 12, 17, 20 or 26 values. Empty: 1 each.": "軸で指定しないときの各ブロックの強度。プリセット名（ファイルの横の lbwpresets.txt も可）か、12、17、20、26個の値。空欄なら全部1。",
        "Prompts, one a line: text --n negative --w 512 --h 512 --d seed --s steps --l cfg --ss sampler; or a .toml or .json of sd-scripts.": "1行に1つのプロンプト（文 --n ネガティブ --w 512 --h 512 --d シード --s ステップ数 --l CFG --ss サンプラー）、またはsd-scriptsの.tomlか.json。",
        "Sampler of prompts that name none.": "指定のないプロンプトのサンプラー。", "Seed of prompts that name none.": "指定のないプロンプトのシード。",
        "Seeds of each prompt, from its own upwards, where no axis has others; they take a free side.": "プロンプトごとのシードの数。空いている軸に並べます。",
        "Of pictures of prompts that name none.": "指定のないプロンプトの画像サイズ。", "Sampler's steps of prompts that name none.": "指定のないプロンプトのステップ数。", "Guidance of prompts that name none.": "指定のないプロンプトのCFG。",
        "Where LoRAs are that prompts name, as in <lora:name:0.8>. Empty: the folders of network_weights.": "プロンプトの <lora:名前:0.8> のLoRAがあるフォルダ。空欄: 選んだファイルのフォルダ。",
        "Also measure: how far each picture is from that without the LoRA and from the training pictures, and the loss on pictures at each strength; and suggest a file and strength.": "LoRAなしの画像や学習画像との距離、強度ごとの損失も測り、ファイルと強度をすすめます。",
        "Folder of pictures and captions to measure with, best of some that were not learned from. Empty: those of the run that made the file, where its records are beside it.": "測定に使う画像とキャプションのフォルダ。学習していない画像が最適です。空欄: その学習の画像。",
        "Pictures that the loss is measured on at most.": "損失を測る画像の最大数。", "Difference of a pixel, of 255, above which it counts as changed.": "この差（255が最大）より大きい画素を、変わったと数えます。",
    });
    ja.said.push(
        ["{low} held-out pictures", "検証用の画像 {low} 枚"], ["{low} training pictures", "学習画像 {low} 枚"], ["1 held-out picture", "検証用の画像 1 枚"], ["1 training picture", "学習画像 1 枚"],
        ["waiting for the model", "モデルを待っています"], ["training run {low} of {high}: {name}", "学習 {low} / {high}: {name}"], ["measuring the loss, {low} of {high}", "損失を測っています {low} / {high}"],
        ["a sheet is being drawn; wait for it, or stop it", "表を描いています。終わるのを待つか、停止してください"], ["a run is on; draw the sheet when it has ended", "学習中です。終わってから描いてください"],
        ["out of memory: close other programs, or unload other models, and draw it again", "メモリが足りません。他のプログラムやモデルを閉じて、もう一度描いてください"],
        ["expected numbers such as 0, 0.5, 1 or a span such as 0.5-1.0:0.25", "0, 0.5, 1 のような数値か、0.5-1.0:0.25 のような範囲にしてください"],
        ["expected a span from a smaller to a larger number by a step above 0", "小さい数から大きい数へ、0より大きい刻みの範囲にしてください"],
        ["expected at most {low} values; this span has {high}", "値は {low} 個までです（この範囲は {high} 個）"], ["expected 1 to {low} values; these are {high}", "値は 1〜{low} 個です（今は {high} 個）"],
        ["expected at most {low} pictures; these are {high}", "画像は {low} 枚までです（今は {high} 枚）"], ["expected one, for all three sides have an axis; these are {low}", "3つの軸がうまっているので、1つにしてください（今は {low} 個）"],
        ["expected another axis than {word} has", "{word} と違う軸にしてください"], ["expected two of strength, te_strength and unet_strength at most", "strength、te_strength、unet_strength は2つまでです"],
        ["expected an axis block_id beside it, which says of which blocks", "どのブロックかを示す block_id の軸も必要です"], ["expected no axis block_id beside it", "block_id の軸とは一緒に使えません"],
        ["expected no axis file beside it; each of its values is a run with its own", "file の軸とは一緒に使えません。値ごとに学習したファイルで描きます"],
        ["expected LoRA files in it; there is none", "LoRAファイルのあるフォルダにしてください"], ["expected its values: {what}", "値を書いてください: {what}"],
        ["Neither the loss nor the looks were measured: {why}", "損失も見た目も測れませんでした: {why}"],
        ["the records of the run are not beside its file; give a folder of pictures with score_data.", "ファイルの横に学習の記録がありません。score_data に画像のフォルダを指定してください。"],
    );
})();
